"""What a model is asked in an evaluation: classification, retrieval."""
