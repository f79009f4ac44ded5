"""The model: CLIP encoders, two levels of prompts, weights."""
