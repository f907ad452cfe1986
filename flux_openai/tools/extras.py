"""What is said where a module needs a package that only an extra installs."""

__all__ = ["missing"]


def missing(extra: str, error: ImportError) -> ImportError:
    """The error to raise where an extra is not installed, with the command that installs it."""
    return ImportError(f"{error}; it comes with an extra: pip install 'flux-openai[{extra}]'", name=error.name)
