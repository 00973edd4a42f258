"""Ahead-of-time compilation of a run's programs, for devices that do not have to be present."""
