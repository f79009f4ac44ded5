"""What every layer may use: files, optional packages, plots."""
