"""The errors that a worker raises when memory runs out."""

from __future__ import annotations

from tgi.backend.agreement import Agreement
from tgi.backend.errors import BackendError, StepError
from tgi.backend.records import SchedulerOutput

__all__ = ["cache_out_of_memory", "step_out_of_memory"]


def step_out_of_memory(step: SchedulerOutput) -> StepError:
    """Return the error of a step that ran out of memory. Smaller steps may succeed."""
    rows = step.rows
    return StepError(
        f"Out of memory in a step of {rows.num_rows} rows and {rows.num_tokens} tokens.",
        retryable=True,
    )


def cache_out_of_memory(agreement: Agreement, remedy: str) -> BackendError:
    """Return the error of a startup that ran out of memory after the negotiation."""
    return BackendError(
        f"Memory ran out while a cache of {agreement.kv_cache.max_batch_total_tokens} tokens was"
        " allocated.",
        remedy,
    )
