"""A worker that checks the steps of the core."""

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
from tgi.testing.step_limits import BrokenRuleError
from tgi.testing.step_rules import StepRules

__all__ = ["StrictWorker"]


@final
class StrictWorker:
    """Calls another worker and checks each step with `StepRules`.

    `submit` raises `BrokenRuleError` if the core violates a rule.
    """

    def __init__(self, inner: Worker) -> None:
        self._inner = inner
        self._rules: StepRules | None = None

    def load(self) -> None:
        """Call the inner worker."""
        self._inner.load()

    def negotiate(self, requested: RequestedLimits) -> Agreement:
        """Call the inner worker. The rules depend on the negotiated limits."""
        agreement = self._inner.negotiate(requested)
        self._rules = StepRules(agreement)
        return agreement

    def warmup(self) -> None:
        """Call the inner worker."""
        self._inner.warmup()

    def submit(self, step: SchedulerOutput | GrammarMasks) -> None:
        """Check the step, then submit it. Raises `BrokenRuleError`."""
        if self._rules is None:
            raise BrokenRuleError("The core sent a step before the negotiation.")
        if isinstance(step, SchedulerOutput):
            self._rules.submit(step)
        else:
            self._rules.submit_masks(step)
        self._inner.submit(step)

    def collect(self) -> ModelRunnerOutput | None:
        """Call the inner worker. A failed step is also removed from the steps in flight."""
        output = None
        try:
            output = self._inner.collect()
        finally:
            if self._rules is not None:
                self._rules.collect(output)
        return output

    def control(self, request: Control) -> ControlResult:
        """Call the inner worker."""
        return self._inner.control(request)

    def health(self, deep: bool) -> Health:
        """Call the inner worker."""
        return self._inner.health(deep)

    def close(self) -> None:
        """Call the inner worker."""
        self._inner.close()
