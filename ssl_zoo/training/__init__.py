"""Training: recipe in, run directory out."""
