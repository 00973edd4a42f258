"""Backbones: from normalised images to feature maps, finest first."""
