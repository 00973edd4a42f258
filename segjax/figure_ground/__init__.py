"""Figure-ground segmentation: bottom-up, top-down, and the two combined. No Flax, no weights."""
