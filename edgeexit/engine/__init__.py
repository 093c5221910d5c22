"""Engine: runs a bundle's artifact under a policy, arrays in, `Decision` out."""
