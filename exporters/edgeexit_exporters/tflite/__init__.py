"""TFLite (LiteRT) files made from the same stages."""
