"""Weights of other libraries: reading and converting them."""
