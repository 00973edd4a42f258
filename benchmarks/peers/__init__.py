"""Scripts that make the golden files of tests/goldens with the peer libraries."""
