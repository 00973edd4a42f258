"""Conventions of torchvision, Detectron2 and MMDetection, as values for the factories."""
