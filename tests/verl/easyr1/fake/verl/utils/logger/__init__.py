"""EasyR1 keeps its table in a module of the same name."""
