"""The other side of the wire: a FLUX image service in this process, for tests, demos and work without a key."""

from flux_openai.emulator.clock import Clock, RealClock, VirtualClock
from flux_openai.emulator.core import Emulator
from flux_openai.emulator.journal import Bill, SeenRequest
from flux_openai.emulator.latency import BySteps, Constant, Latency, Lognormal
from flux_openai.emulator.limits import Concurrency, Credits, FixedWindow, Limit, TokenBucket
from flux_openai.emulator.replies import Reply
from flux_openai.emulator.rules import Script
from flux_openai.emulator.server import Server
from flux_openai.emulator.table import fault_help, fault_table

__all__ = [
    "Bill",
    "BySteps",
    "Clock",
    "Concurrency",
    "Constant",
    "Credits",
    "Emulator",
    "FixedWindow",
    "Latency",
    "Limit",
    "Lognormal",
    "RealClock",
    "Reply",
    "Script",
    "SeenRequest",
    "Server",
    "TokenBucket",
    "VirtualClock",
    "fault_help",
    "fault_table",
]
