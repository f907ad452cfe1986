"""What can go wrong: the catalog of faults, the scripts that ask for them, and what they do to an answer."""
