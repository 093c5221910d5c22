"""Data that ships with the package; sources and licences are in SOURCES.md."""
