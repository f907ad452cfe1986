"""What an adapter says where the framework that it adapts is not installed."""

__all__ = ["missing"]


def missing(extra: str, error: ImportError) -> ImportError:
    """The error to raise where an extra is not installed, with the command that installs it."""
    return ImportError(f"{error}: pip install 'flux-openai[{extra}]'", name=error.name, path=error.path)
