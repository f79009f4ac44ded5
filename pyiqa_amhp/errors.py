"""Errors that users can act on: what was given, what was expected, what to do."""


class AMHPError(ValueError):
    """Bad input or a missing resource; the command line prints its text without a traceback."""


class ImageReadError(AMHPError):
    """A file is missing, truncated or not an image; the text begins with its path."""
