"""The modes of `unsupported=`. The options of a client name them without loading the code that carries them out."""

from typing import Literal

__all__ = ["Unsupported"]

Unsupported = Literal["error", "warn", "drop", "send"]
"""What happens to options that a model does not take: "error" refuses them, "warn" leaves them out with a notice,
"drop" leaves them out, "send" sends them unchecked."""
