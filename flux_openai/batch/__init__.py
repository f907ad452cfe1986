"""Batches: a file of prompts becomes a folder of images."""
