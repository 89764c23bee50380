"""Checking the videos of lists by decoding them."""
