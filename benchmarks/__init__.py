"""Scripts that measure every published figure, one command each, into benchmarks/results/."""
