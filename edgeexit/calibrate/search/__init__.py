"""Search for policies: thresholds, Pareto fronts, EERO, candidate families."""
