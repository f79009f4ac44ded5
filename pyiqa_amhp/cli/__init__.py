"""The command ``amhp``: one file a command."""
