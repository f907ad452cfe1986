"""The response stage: the body of an answer in, a response with images out; their download and their files."""
