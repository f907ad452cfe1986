"""The adapters' common error for a framework that is not installed."""

__all__ = ["missing_extra"]


def missing_extra(extra: str, error: ImportError) -> ImportError:
    """The error of an adapter that cannot import its framework; it names the extra to install."""
    text = f"this tool needs the extra {extra!r}: pip install 'flux-openai[{extra}]' ({error})"
    return ImportError(text, name=error.name, path=error.path)
