"""CLIP: tokenizer, the two towers, and reading weights of every format."""
