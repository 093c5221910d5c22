"""Text and tokens: tokenizer, whole characters, stop strings."""
