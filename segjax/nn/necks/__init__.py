"""Necks, which turn the feature maps of a backbone into a pyramid."""
