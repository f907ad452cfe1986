"""The clients `FluxOpenAI` and `AsyncFluxOpenAI`, their images resource, and `adapt` for existing clients."""
