"""Definitions of multi-exit networks, their layers and heads."""
