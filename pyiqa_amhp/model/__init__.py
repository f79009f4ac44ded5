"""The model: CLIP towers, two levels of prompts, weights."""
