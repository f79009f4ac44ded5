"""From rated images on disk to training batches."""
