"""The request stage: keyword arguments in, checked values for the wire out, or one error with every fault."""
