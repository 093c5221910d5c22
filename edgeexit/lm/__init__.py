"""Language models on the device: exits per token, one cache, and speculation that claims only what was proved."""
