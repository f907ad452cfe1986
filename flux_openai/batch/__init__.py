"""Batches: a file of prompts becomes a folder of images, whatever happens in between.

Example:
    report = await run_batch("prompts.jsonl", "out", budget="50 CNY")
"""

from flux_openai.batch.batch import BatchOptions, iter_batch, run_batch, run_batch_sync
from flux_openai.batch.ledger import BatchItem, RowError, SavedFile, State
from flux_openai.batch.runner import BatchProgress, BatchReport

__all__ = [
    "BatchItem",
    "BatchOptions",
    "BatchProgress",
    "BatchReport",
    "RowError",
    "SavedFile",
    "State",
    "iter_batch",
    "run_batch",
    "run_batch_sync",
]
