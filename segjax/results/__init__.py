"""Results of a model on a picture: objects, maps, class names, files, and their conversions."""
