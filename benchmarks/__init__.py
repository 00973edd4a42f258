"""One command for each figure; results are files under benchmarks/results/."""
