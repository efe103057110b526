"""Decides each step: who runs, with how many tokens, in which blocks."""

from tgi.scheduler.records import (
    Request,
    SchedulerConfig,
    SchedulerStats,
    SequenceOutput,
)
from tgi.scheduler.scheduler import Scheduler

__all__ = [
    "Request",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerStats",
    "SequenceOutput",
]
