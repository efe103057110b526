"""The engine loop, which receives messages, runs steps and reports the results. It uses one thread
and no event loop.

`Scheduler.schedule` returns a step and `Worker.submit` starts the step. When the negotiated number
of steps is in flight, or no further step can be scheduled, `Worker.collect` returns the result of
the oldest step. `Scheduler.update` applies the result, and one `StepReport` is sent to the front
end. If the result completes the tokens before the sampled tokens of the next step, the masks of
that step are submitted before a further step is scheduled.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, final

import msgspec

from tgi.backend import Health, ModelRunnerOutput, SchedulerOutput, StepError, Worker
from tgi.engine.control import ControlHandler
from tgi.engine.guidance import GuidanceManager, SequenceConstraint
from tgi.engine.messages import (
    AbortSequence,
    AddSequence,
    CheckHealth,
    ControlReply,
    ControlRequest,
    EngineMessage,
    EngineStats,
    FrontendMessage,
    HealthReport,
    SetVocabulary,
    Shutdown,
    StepReport,
)
from tgi.scheduler import Scheduler, SequenceOutput

__all__ = ["Connection", "EngineCore"]

_QUIET_SECONDS = 0.25  # time without messages after which an idle engine checks its invariants


class Connection(Protocol):
    """The engine's side of the connection to the front end."""

    def receive(self, *, wait: bool) -> list[FrontendMessage]:
        """Return the messages that have arrived. If `wait` is set, wait for at least one message.
        Raises ConnectionError if the front end has closed the connection.
        """

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing arrives within `seconds`. Returns False as soon as something arrives."""

    def send(self, message: EngineMessage) -> None:
        """Send one message to the front end."""


@final
class EngineCore:
    """Runs one worker and its scheduler until the front end sends `Shutdown` or disconnects."""

    def __init__(
        self,
        worker: Worker,
        scheduler: Scheduler,
        connection: Connection,
        depth: int,
        clock: Callable[[], int] = time.monotonic_ns,
        *,
        guidance: GuidanceManager | None = None,
    ) -> None:
        self._worker = worker
        self._scheduler = scheduler
        self._connection = connection
        self._depth = depth
        self._clock = clock
        self._control = ControlHandler(worker, scheduler)
        # The steps in flight, each with the time at which it was submitted, in ns.
        self._in_flight: deque[tuple[SchedulerOutput, int]] = deque()
        self._schedule_ns = 0
        self._guidance = guidance or GuidanceManager(clock)
        self._has_guided = False  # a sequence of the current step has a constraint
        # Outputs of sequences that ended outside a step. The next report contains them.
        self._outputs: list[SequenceOutput] = []

    def run(self) -> None:
        """Run steps until `Shutdown` arrives. Raises ConnectionError if the front end
        disconnects.
        """
        running = True
        try:
            while running:
                idle = not self._in_flight and not self._scheduler.has_work
                # The check takes longer than a step of a small model. The next request therefore
                # never waits for the check if it arrives soon after the last one.
                if idle and self._connection.is_quiet(_QUIET_SECONDS):
                    self._scheduler.check()
                for message in self._connection.receive(wait=idle):
                    running = self._handle(message) and running
                self._step()
        finally:
            self._guidance.close()

    def _handle(self, message: FrontendMessage) -> bool:
        match message:
            case AddSequence():
                self._add(message)
            case AbortSequence():
                self._scheduler.abort(message.sequence_id)
            case CheckHealth():
                health = self._health(message.deep)
                self._connection.send(HealthReport(message.check_id, health.ok, health.message))
            case ControlRequest():
                self._settle()
                result = self._control.handle(message.request)
                self._connection.send(ControlReply(message.control_id, result))
            case SetVocabulary():
                self._guidance.set_vocabulary(message.data, self._scheduler.vocab_size)
            case Shutdown():
                return False
            case _:
                raise ValueError(f"{type(message).__name__} is not expected while serving")
        return True

    def _add(self, message: AddSequence) -> None:
        sequence_id, request = message.sequence_id, message.request
        constraint: SequenceConstraint | None = None
        refused: SequenceOutput | None
        if self._control.is_asleep:
            refused = SequenceOutput(sequence_id, error="The engine is asleep")
        elif request.guidance is not None and not self._guidance.has_vocabulary:
            error = "The engine has no vocabulary, so it cannot apply a grammar"
            refused = SequenceOutput(sequence_id, error=error)
        else:
            if request.guidance is not None:
                constraint = self._guidance.constrain(request, message.output_token_ids)
            refused = self._scheduler.add(
                sequence_id, request, message.output_token_ids, constraint
            )
        if refused is not None:
            self._outputs.append(refused)
            if constraint is not None:
                constraint.close()

    def _health(self, deep: bool) -> Health:
        # A deep check runs a separate forward pass. It must run after the steps in flight.
        self._drain()
        return self._worker.health(deep)

    def _drain(self) -> None:
        """Collect all steps in flight."""
        while self._in_flight:
            self._collect()

    def _settle(self) -> None:
        """Collect all steps in flight, and submit steps until the worker has dropped all sequences
        that ended.
        """
        self._drain()
        while self._scheduler.has_dropped:
            self._step()
            self._drain()

    def _step(self) -> None:
        while len(self._in_flight) < self._depth:
            if self._scheduler.constrained:
                self._begin_guided_step()
            started = self._clock()
            step = self._scheduler.schedule()
            submitted = self._clock()
            self._schedule_ns = submitted - started
            if step is None:
                break
            try:
                self._worker.submit(step)
            except StepError as error:
                self._fail(step, error, submitted)
                continue
            self._in_flight.append((step, submitted))
            if step.mask == "late":
                self._submit_late_masks()
        if self._in_flight:
            self._collect()
        elif self._outputs:
            self._report(EngineStats(self._scheduler.stats()))
        elif self._has_guided:
            self._guidance.wait()

    def _begin_guided_step(self) -> None:
        """Prepare the constraints for the next step. The sequences with invalid grammars end."""
        self._has_guided = True
        self._guidance.begin_step()
        self._outputs += self._scheduler.end_constrained()

    def _submit_late_masks(self) -> None:
        """Submit the masks that can be computed now. Their steps wait for them."""
        for masks in self._scheduler.take_late_masks():
            self._worker.submit(masks)

    def _collect(self) -> None:
        step, submitted = self._in_flight.popleft()
        try:
            output = self._worker.collect()
        except StepError as error:
            self._fail(step, error, submitted)
        else:
            if output is None or output.step_id != step.step_id:
                raise RuntimeError(f"the worker did not return the result of step {step.step_id}")
            self._apply(output, submitted)

    def _apply(self, output: ModelRunnerOutput, submitted: int) -> None:
        collected = self._clock()
        self._outputs.extend(self._scheduler.update(output))
        times = output.times
        update_ns = self._clock() - collected
        if self._has_guided:
            self._submit_late_masks()
        self._report(
            EngineStats(
                self._scheduler.stats(),
                self._schedule_ns,
                collected - submitted,
                times.forward,
                times.sample,
                update_ns,
            )
        )

    def _fail(self, step: SchedulerOutput, error: StepError, submitted: int) -> None:
        self._outputs.extend(self._scheduler.fail_step(step.step_id, str(error), error.retryable))
        step_ns = self._clock() - submitted
        if self._has_guided:
            self._submit_late_masks()
        self._report(
            EngineStats(self._scheduler.stats(), self._schedule_ns, step_ns, is_failed=True)
        )

    def _report(self, stats: EngineStats) -> None:
        if self._has_guided:
            self._has_guided = bool(self._scheduler.constrained)
            stats = msgspec.structs.replace(stats, guidance=self._guidance.take_stats())
        outputs, self._outputs = self._outputs, []
        self._connection.send(StepReport(outputs, stats))
