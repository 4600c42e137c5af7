"""Files to pixels: pictures found under a folder, decoded and resized by worker processes."""
