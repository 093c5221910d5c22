"""Tuning of decoding on a device: recorded traces, measured costs, simulation, verdict."""
