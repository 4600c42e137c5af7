"""What the scripts do, in a subpackage for each, based on pictures, network and milvus."""
