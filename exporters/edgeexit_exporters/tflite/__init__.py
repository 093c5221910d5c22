"""TFLite (LiteRT) files from the same stages."""
