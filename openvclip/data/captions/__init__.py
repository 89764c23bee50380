"""Caption files: made, read, and written by a captioning model."""
