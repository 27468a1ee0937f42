"""A Full layer in torch on the CPU: projections, scores and selections over index keys in the model's dtype."""
