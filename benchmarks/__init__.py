"""Measurements, each `python -m benchmarks.bench_x [--json FILE]`; results are kept in `benchmarks/results`."""
