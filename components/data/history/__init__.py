"""Older dataset versions: which there are, what their manifests say, and the objects DVC keeps of them."""
