"""Heads: from features of images or regions to logits."""
