"""Offline example: images, votes and comments are made here; two models are trained on them."""
