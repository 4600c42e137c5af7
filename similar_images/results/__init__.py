"""The files that query_code.py writes: pairings, picture, observations, gallery."""
