"""Reports as PNG plots (matplotlib)."""
