"""Files to pixels: images found under a folder, decoded and resized by worker processes."""
