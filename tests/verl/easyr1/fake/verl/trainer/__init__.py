"""Where `main` is."""
