"""The scheduler: decides for each step which sequences run, with how many tokens and in which
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
