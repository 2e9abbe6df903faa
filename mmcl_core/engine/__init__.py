"""Training: the loop, its state, its log, and what watches over it."""
