"""Export to TFLite: one file with a signature per stage, or one graph that decides by itself."""
