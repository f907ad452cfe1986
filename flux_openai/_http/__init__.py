"""HTTP without FLUX: the library in use, one exchange as seen on the wire, secrets, and which URLs may be fetched."""
