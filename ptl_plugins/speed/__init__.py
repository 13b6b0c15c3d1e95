"""How fast a model is against a baseline: measured in pairs, in the same process and run."""
