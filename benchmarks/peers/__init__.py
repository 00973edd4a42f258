"""What the peers compute: makes the files of tests/goldens with the peers themselves."""
