"""Heads, which turn features of images or regions into logits."""
