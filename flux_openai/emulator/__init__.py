"""A FLUX image service on this machine, for tests, demos and work without a key: see `Emulator`."""

from flux_openai.emulator.api.responses import Reply
from flux_openai.emulator.emulator import Emulator
from flux_openai.emulator.faults.catalog import fault_help, fault_table
from flux_openai.emulator.faults.rules import Script
from flux_openai.emulator.journal import Bill, SeenRequest
from flux_openai.emulator.load.clock import Clock, RealClock, VirtualClock
from flux_openai.emulator.load.latency import BySteps, Constant, Latency, Lognormal
from flux_openai.emulator.load.limits import Concurrency, Credits, FixedWindow, Limit, TokenBucket
from flux_openai.emulator.transport.server import Server

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
