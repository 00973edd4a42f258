"""Conventions of torchvision, Detectron2 and MMDetection, as values that factories read."""
