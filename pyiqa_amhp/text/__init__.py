"""From attribute labels and comments to the first-level prompt."""
