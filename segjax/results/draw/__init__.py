"""Pictures of results: objects with their masks, semantic and panoptic maps."""
