"""Terms of the training loss."""
