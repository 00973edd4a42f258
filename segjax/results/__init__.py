"""What a model finds in a picture: objects, maps, names of classes, files; conversions between."""
