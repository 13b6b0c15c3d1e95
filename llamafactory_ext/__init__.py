"""PTL inside LLaMA-Factory: `llamafactory-cli train recipe.yaml` with a `ptl:` section."""
