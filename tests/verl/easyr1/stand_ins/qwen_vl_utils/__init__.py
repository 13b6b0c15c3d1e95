"""A stand-in: no test has pictures."""
