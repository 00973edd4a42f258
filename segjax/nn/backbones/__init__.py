"""Backbones, which turn normalised images into feature maps, finest first."""
