"""Decides each step: who runs, with how many tokens, in which blocks."""

from tgi.scheduler.records import (
    NewSequenceRequest,
    SchedulerConfig,
    SchedulerStats,
    SequenceOutput,
    TokenOutput,
)
from tgi.scheduler.scheduler import Scheduler

__all__ = [
    "NewSequenceRequest",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerStats",
    "SequenceOutput",
    "TokenOutput",
]
