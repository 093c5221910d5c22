"""Bundles: the manifest, its JSON form, its checks, and the folder on disk."""
