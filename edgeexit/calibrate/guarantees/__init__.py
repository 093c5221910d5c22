"""Guarantees: losses, bounds, tests over ordered candidates, conformal sets, drift regimes."""
