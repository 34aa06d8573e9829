"""Any model of ours, of timm or of transformers, as a function from images to features."""
