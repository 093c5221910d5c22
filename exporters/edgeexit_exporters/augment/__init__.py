"""Early exits for a trained single-exit network, which itself is not trained again.

Places in its graph, features there, heads fitted on them, the choice among them, the verdict.
"""
