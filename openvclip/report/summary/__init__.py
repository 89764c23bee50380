"""Tables across runs."""
