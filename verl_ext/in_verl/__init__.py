"""What PTL runs inside verl 0.9.1: it imports nothing of PTL, whose stages bring a copy of it."""
