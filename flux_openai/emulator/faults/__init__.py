"""The faults of the emulator: their catalog, the scripts and the queue that select them, and their effects."""
