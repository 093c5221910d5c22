"""Data sets and shared parts of the recipes; run the scripts from a checkout, they are not in the wheel."""
