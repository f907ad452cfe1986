"""What a batch leaves beside its images: the manifest, the errors, the report and the gallery."""
