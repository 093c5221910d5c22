"""Early exits for a trained single-exit network, which itself is not trained again."""
