"""Pseudo-labels as a data set."""
