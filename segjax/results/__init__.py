"""Results of a model on an image: objects, maps, class names, files, and conversions."""
