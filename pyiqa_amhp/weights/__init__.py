"""Trained weights: files, the user's store, the hub."""
