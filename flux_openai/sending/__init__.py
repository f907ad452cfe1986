"""The sending stage: checked calls in, their answer or error out, under the retry policy."""
