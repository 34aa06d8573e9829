"""What a trained backbone is worth: k-NN accuracy, agreement of clusters with classes, a picture, lines of results."""
