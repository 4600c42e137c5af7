"""What embed_and_load.py does: compare a folder with its collection, embed and upsert the rest."""
