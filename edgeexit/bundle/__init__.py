"""Bundles: manifest, JSON codec, checks, and the folder on disk."""
