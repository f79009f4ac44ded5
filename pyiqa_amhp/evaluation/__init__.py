"""Evaluation of metrics on rated images, with intervals, beside published results."""
