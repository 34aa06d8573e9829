"""Numbers from predictions, clusters and features, with what is needed to trust them."""
