"""Lists of videos, label maps, and the protocols that they belong to."""
