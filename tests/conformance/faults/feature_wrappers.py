"""Wrappers that give the complete backend, its worker or its network one fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.conformance.faults.wrappers import BackendWithWorker, FaultyWorker
from tgi.backend import SchedulerOutput
from tgi.testing.doubles.complete_backend import CompleteBackend
from tgi.testing.doubles.complete_part import CompletePart
from tgi.testing.reference.network import ReferenceNetwork
from tgi.worker.step_worker import StepWorker

struct = msgspec.structs.replace


@dataclass
class FaultyNetwork:
    """`ReferenceNetwork` with changed sequences or changed vectors."""

    inner: ReferenceNetwork
    change_new: Callable = lambda new, num_tokens: new
    change_hidden: Callable = lambda hidden: hidden

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def logits(self, new, tokens, encoder_tokens, first=0):
        return self.inner.logits(self.change_new(new, len(tokens)), tokens, encoder_tokens, first)

    def hidden(self, new, tokens):
        return self.change_hidden(self.inner.hidden(new, tokens))


def faulty_complete(worker=dict, network=dict, wrap=lambda part: part):
    """The complete backend with a fault in its worker or network.

    `worker` and `network` return the changes. They are called again for each worker. `wrap` changes
    the part.
    """

    def create_worker(config, reporter):
        changed = FaultyNetwork(ReferenceNetwork(config.spec, Path(config.model_path)), **network())
        return FaultyWorker(StepWorker(wrap(CompletePart(changed)), reporter), worker())

    return BackendWithWorker(CompleteBackend(), create_worker)


def in_steps(change):
    """Change each step before the worker gets it."""
    return faulty_complete(
        lambda: {
            "submit": lambda inner, step: inner.submit(
                change(step) if isinstance(step, SchedulerOutput) else step
            )
        }
    )


def in_added(change):
    """Change each new sequence."""
    return in_steps(lambda step: struct(step, added=[change(new) for new in step.added]))


def in_rows(change):
    """Change the rows of each step."""
    return in_steps(lambda step: struct(step, rows=change(step.rows)))


def in_output(change):
    """Change each result with `change(output, step)`."""

    def worker():
        steps = []

        def submit(inner, step):
            inner.submit(step)
            steps.append(step)

        return {
            "submit": submit,
            "collect": lambda inner: change(inner.collect(), steps.pop(0)),
        }

    return faulty_complete(worker)


def in_control(change):
    """`change(inner, request)` responds in place of the worker."""
    return faulty_complete(lambda: {"control": change})


def in_network(**changes):
    return faulty_complete(network=lambda: {name: make() for name, make in changes.items()})
