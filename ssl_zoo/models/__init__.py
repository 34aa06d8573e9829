"""The methods, one folder each; a folder's name is the method's `model_type`."""
