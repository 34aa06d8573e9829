"""What is learned from frozen features: neighbours, classifiers, clusters."""
