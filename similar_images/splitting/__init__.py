"""Used by split_images.py: reads a data set and splits it into two folders of PNG files."""
