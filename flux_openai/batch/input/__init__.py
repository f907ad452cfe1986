"""The input of a batch: a file, or what a program hands over, as checked rows."""
