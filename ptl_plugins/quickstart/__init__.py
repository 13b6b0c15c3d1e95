"""A real small model, its corpus and its answers: the whole loop on a laptop CPU in minutes."""
