"""Policies that may reject: selective classification, windows, QUTE."""
