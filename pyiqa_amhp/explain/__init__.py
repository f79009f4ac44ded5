"""Explanations of scores, and cards and pages that show them."""
