"""What a busy service does: rate limits, latency, and the clock that both go by."""
