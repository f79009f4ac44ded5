"""The best photographs of a folder: one of each burst, with reasons, links and star ratings."""
