"""Trained weights: files, the user's store, the Hugging Face hub."""
