"""Sharing of a trained AMHP on the hub: its records, its model card, the push."""
