"""Losses as frozen values that return sums and counts."""
