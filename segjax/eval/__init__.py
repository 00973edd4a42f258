"""Evaluation: detections in original pixels, COCO results, and pycocotools' AP and AR."""
