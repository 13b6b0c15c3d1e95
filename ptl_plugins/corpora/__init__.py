"""The corpora of the shipped recipes: read as a stream, shuffled on the disk, written once."""
