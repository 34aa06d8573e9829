"""The protocols by name, their parameters, and the training that some of them need."""
