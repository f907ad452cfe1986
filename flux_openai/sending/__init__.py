"""One request to one outcome, under the retry policy."""
