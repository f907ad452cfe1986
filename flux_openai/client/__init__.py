"""What users hold: `FluxOpenAI`, `AsyncFluxOpenAI` and `adapt`."""
