"""Benchmarks: `python -m benchmarks.bench_x [--json FILE]`; recorded results are in `benchmarks/results`."""
