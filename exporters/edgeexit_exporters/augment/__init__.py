"""Early exits for a trained single-exit network: places in its graph, features there, heads fitted on them."""
