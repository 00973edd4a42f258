"""Necks: from the maps of a backbone to a feature pyramid."""
