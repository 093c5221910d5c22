"""Analysis of a source: stages, tensors, costs, sizes, answers."""
