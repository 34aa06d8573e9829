"""Object detection with a pretrained backbone: Faster R-CNN, fine-tuned and measured as the papers do."""
