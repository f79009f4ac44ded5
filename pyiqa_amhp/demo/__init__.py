"""An offline example: photographs, raters and comments made here, trained and reported."""
