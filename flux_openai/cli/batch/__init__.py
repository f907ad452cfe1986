"""The commands about a batch."""

from flux_openai.cli.batch.commands import (
    make_batch,
    put_back_failed,
    resolve_held,
    show_status,
    verify_files,
    write_gallery,
)

__all__ = ["make_batch", "put_back_failed", "resolve_held", "show_status", "verify_files", "write_gallery"]
