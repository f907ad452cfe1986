"""The other side of the wire: a FLUX image service in this process, for tests, demos and work without a key."""

from flux_openai.emulator.core import Emulator
from flux_openai.emulator.journal import Bill, SeenRequest
from flux_openai.emulator.replies import Reply
from flux_openai.emulator.server import Server

__all__ = ["Bill", "Emulator", "Reply", "SeenRequest", "Server"]
