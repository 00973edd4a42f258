"""Draws results: objects with their masks, semantic maps and panoptic maps."""
