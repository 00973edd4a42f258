"""Golden files from the peers themselves: makes the files of tests/goldens."""
