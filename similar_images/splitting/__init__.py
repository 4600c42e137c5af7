"""What split_images.py does: read a data set, and split it into two folders of PNGs."""
