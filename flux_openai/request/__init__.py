"""Arguments to one checked request: every fault of a call at once, or the exact values that go over the wire."""
