"""Caption files: preparing, reading, and generating them with a captioning model."""
