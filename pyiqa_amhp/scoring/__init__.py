"""Scores of images: any metric, files to results."""
