"""The demo: a small world of moving shapes, a small CLIP pretrained on it, a table of results."""
