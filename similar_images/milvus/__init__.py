"""Vectors to and from Milvus: the client, Milvus Lite, the collection and its indexes."""
