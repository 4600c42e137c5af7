"""The files that query_code.py writes: pairings, image, observations, gallery."""
