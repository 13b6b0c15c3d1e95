"""What is measured on a model between the rounds."""
