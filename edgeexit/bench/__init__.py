"""Benchmarks: latency per exit, device profiles, comparison of networks, verification of shipped vectors."""
