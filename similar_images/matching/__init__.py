"""What query_code.py does: find each query's matches, and examine them."""
