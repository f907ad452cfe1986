"""Time and load of the emulator: clocks, latency and rate limits."""
