"""Sharing a trained AMHP on the hub: what is known of it, its card, and the push."""
