"""Evaluation: every video of a list exactly once, at one patching ratio or several."""
