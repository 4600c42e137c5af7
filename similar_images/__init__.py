"""What the scripts do, in a subpackage for each, based on images, network and milvus."""

__version__ = "1.0.0"
