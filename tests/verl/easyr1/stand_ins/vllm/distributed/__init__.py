"""The part that EasyR1 asks for tensor parallelism."""
