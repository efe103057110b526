"""The scheduler, which selects the sequences of each step, their number of tokens and their cache
blocks.
"""

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
