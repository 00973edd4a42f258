"""Losses, as frozen dataclasses that return sums and counts."""
