"""CLIP for videos: temporal variants, text classifier, the video model and building it."""
