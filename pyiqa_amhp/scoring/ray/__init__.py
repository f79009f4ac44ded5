"""Scores beyond one machine, on Ray Data (extra ``ray``)."""
