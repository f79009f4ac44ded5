"""Loss, metrics and the model class that pyiqa's trainer drives."""
