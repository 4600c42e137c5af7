"""How the scripts do it: a subpackage for each script, over pictures, network and milvus."""
