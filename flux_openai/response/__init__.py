"""The answer of the service, its images, and their files."""
