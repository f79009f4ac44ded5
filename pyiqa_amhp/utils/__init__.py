"""What every layer may use: texts, files, optional packages, plots."""
