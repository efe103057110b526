"""A worker that stands behind the rules of the core's side."""

from __future__ import annotations

from typing import final

from tgi.backend import (
    Agreement,
    Control,
    ControlResult,
    GrammarMasks,
    Health,
    ModelRunnerOutput,
    RequestedLimits,
    SchedulerOutput,
    Worker,
)
from tgi.testing.step_rules import BrokenRuleError, StepRules

__all__ = ["StrictWorker"]


@final
class StrictWorker:
    """Any worker, behind the rules: the core that breaks one gets `BrokenRuleError` from
    `submit`.
    """

    def __init__(self, inner: Worker) -> None:
        self._inner = inner
        self._rules: StepRules | None = None

    def load(self) -> None:
        """As the inner worker."""
        self._inner.load()

    def negotiate(self, requested: RequestedLimits) -> Agreement:
        """As the inner worker; its answer becomes the rules."""
        agreement = self._inner.negotiate(requested)
        self._rules = StepRules(agreement)
        return agreement

    def warmup(self) -> None:
        """As the inner worker."""
        self._inner.warmup()

    def submit(self, step: SchedulerOutput | GrammarMasks) -> None:
        """Check, then pass on. Raises `BrokenRuleError`."""
        if self._rules is None:
            raise BrokenRuleError("The core sent a step before the agreement.")
        if isinstance(step, SchedulerOutput):
            self._rules.submit(step)
        else:
            self._rules.submit_masks(step)
        self._inner.submit(step)

    def collect(self) -> ModelRunnerOutput | None:
        """As the inner worker; a step that fails is done, too."""
        output = None
        try:
            output = self._inner.collect()
        finally:
            if self._rules is not None:
                self._rules.collect(output)
        return output

    def control(self, request: Control) -> ControlResult:
        """As the inner worker."""
        return self._inner.control(request)

    def health(self, deep: bool) -> Health:
        """As the inner worker."""
        return self._inner.health(deep)

    def close(self) -> None:
        """As the inner worker."""
        self._inner.close()
