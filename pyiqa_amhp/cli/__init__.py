"""The command ``amhp``: a file for each larger command."""
