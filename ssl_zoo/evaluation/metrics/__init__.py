"""Metrics of predictions, clusters and features, with confidence intervals."""
