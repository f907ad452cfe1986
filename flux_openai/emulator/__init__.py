"""The other side of the wire: a FLUX image service in this process, for tests, demos and work without a key."""

from flux_openai.emulator.core import Emulator
from flux_openai.emulator.journal import Bill, SeenRequest
from flux_openai.emulator.replies import Reply
from flux_openai.emulator.rules import Script
from flux_openai.emulator.table import fault_table

__all__ = ["Bill", "Emulator", "Reply", "Script", "SeenRequest", "fault_table"]
