"""Evaluation: COCO AP and AR, mean IoU, panoptic quality and boundary scores."""
