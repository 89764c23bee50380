"""Checkpoint files: written whole, verified, loaded, averaged and exported."""
