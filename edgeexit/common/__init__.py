"""Shared helpers: files, JSON records, locks, environment line, measures; standard library and numpy only."""
