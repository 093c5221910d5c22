"""Shared helpers: files, JSON fields, locks, environment line, measures; standard library and numpy only."""
