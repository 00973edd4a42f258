"""Prediction on pictures of any size, and on files of them."""
