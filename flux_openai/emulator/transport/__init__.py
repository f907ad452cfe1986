"""How an answer reaches a client: in this process, or over a port."""
