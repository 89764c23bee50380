"""Training: the step, its objectives, the optimizer and the epoch loop."""
