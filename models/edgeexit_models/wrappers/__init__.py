"""Wrappers that add heads to a network by forward hooks; its own code stays as it is."""
