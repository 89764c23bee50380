"""Classification of a user's own videos by labels of their choice."""
