"""Compiling ahead of time: what a run's programs need on a device that is not here."""
