"""Prediction on images of any size, and on image and video files."""
