"""Reports as text, CSV and JSON."""
