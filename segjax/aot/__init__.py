"""Ahead-of-time compilation of a run's programs, for devices that are not present."""
