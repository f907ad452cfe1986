"""HTTP helpers that know nothing of FLUX: the library in use, capture of an exchange, redaction, the SSRF guard."""
