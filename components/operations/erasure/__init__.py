"""Recall of images: what it touches, marking them, and erasing their bytes."""
