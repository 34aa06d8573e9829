"""Neighbours, classifiers and clusters of frozen features."""
