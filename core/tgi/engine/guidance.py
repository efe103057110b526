"""The constraints of guided sequences in the engine process: matchers, and the time for masks.

Grammars are compiled in threads. Masks are computed in the engine thread, within a time budget per
step. A row whose mask exceeds the budget is not part of the step, and its mask is computed first in
the next step. The masks of a step that was submitted already are computed without a budget, because
the device waits for them. A sequence is scheduled in such a step only if the previous masks of all
such sequences took less time than the budget together.
"""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, final

import numpy as np

from tgi.backend import Int32Array
from tgi.engine.messages import GuidanceStats
from tgi.grammar.constraint import GrammarError
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.scheduler import Request
from tgi.types import Guidance

if TYPE_CHECKING:
    from tgi.grammar.matcher import Matcher

__all__ = ["BuildPool", "GuidanceManager", "MaskBudget", "Pool", "SequenceConstraint", "build_pool"]

_BUDGET_NS = 10_000_000
"""Time for the masks of one step. Another stream stalls for at most this time plus the time of one
mask.
"""

_WAIT_SECONDS = 0.001  # the engine reads messages at least this often while it waits for a grammar


class Pool(Protocol):
    """Compiles grammars in threads. `tgi.grammar.pool.MatcherPool` implements this interface."""

    num_compiled: int

    def request(self, guidance: Guidance, output_token_ids: Sequence[int] = ()) -> Future[Matcher]:
        """Return a matcher that has read `output_token_ids`, as a future."""

    def close(self) -> None:
        """Stop the threads."""


BuildPool = Callable[[VocabularyData], Pool]


def build_pool(data: VocabularyData) -> Pool:
    """Return a pool for a vocabulary. The construction can take a second."""
    # llguidance is imported here, so that the startup does not wait for the import.
    from tgi.grammar.pool import MatcherPool  # noqa: PLC0415 - see above
    from tgi.grammar.vocabulary import Vocabulary  # noqa: PLC0415 - see above

    return MatcherPool(Vocabulary(data))


@final
class MaskBudget:
    """The time for the masks of one step, the constraints whose masks exceeded it, and counters of
    the work.
    """

    def __init__(self, clock: Callable[[], int], budget_ns: int = _BUDGET_NS) -> None:
        self.clock = clock  # ns
        self._budget_ns = budget_ns
        self._deadline = 0
        self._num_reserved_ns = 0
        self._deferred: deque[SequenceConstraint] = deque()
        self.mask_ns = 0  # time of all masks
        self.num_masks = 0
        self.num_errors = 0  # sequences that ended with an error of their grammar

    @property
    def has_time(self) -> bool:
        """Whether a further mask may be computed for the step that is being planned."""
        return self.clock() < self._deadline

    def begin_step(self) -> None:
        """Begin to plan a step. The masks that exceeded the budget of an earlier step are computed
        first, so every sequence advances.
        """
        self._deadline = self.clock() + self._budget_ns
        self._num_reserved_ns = 0
        while self._deferred and self.has_time:
            constraint = self._deferred.popleft()
            constraint.is_deferred = False
            constraint.mask()

    def defer(self, constraint: SequenceConstraint) -> None:
        """Compute a mask in the next step, after the masks that were deferred before."""
        if not constraint.is_deferred:
            constraint.is_deferred = True
            self._deferred.append(constraint)

    def reserve(self, mask_ns: int) -> bool:
        """Reserve time for a mask that will be computed after its step was submitted. Returns
        whether all reserved masks fit into the budget of a step.
        """
        self._num_reserved_ns += mask_ns
        return self._num_reserved_ns <= self._budget_ns


@final
class SequenceConstraint:
    """Implements `tgi.scheduler.constraint.TokenConstraint` with a matcher."""

    def __init__(
        self, request: Request, output_token_ids: Sequence[int], budget: MaskBudget
    ) -> None:
        """Create a constraint without a matcher."""
        self.request = request
        self.output_token_ids = output_token_ids
        self.future: Future[Matcher] | None = None  # None until the vocabulary is built
        self.is_deferred = False
        self._budget = budget
        self._matcher: Matcher | None = None
        self._num_accepted = len(output_token_ids)
        self._error = ""
        self._is_closed = False
        self._can_generate_eos = False
        self._words: Int32Array = np.empty(0, np.int32)
        self._has_mask = False  # the mask of the next token was computed
        self._is_masked = False  # not every token is allowed next
        self._last_mask_ns = 0

    def start(self, future: Future[Matcher], mask_width: int, eos_token_ids: Sequence[int]) -> None:
        """Set the matcher, as a future. The constraint is ready when the future is done.
        `eos_token_ids` are the EOS ids of the vocabulary.
        """
        self.future = future
        self._words = np.zeros(mask_width, np.int32)
        self._can_generate_eos = not set(eos_token_ids).isdisjoint(self.request.eos_token_ids)

    def fail(self, error: str) -> None:
        """End the sequence with an error."""
        self._error = self._error or error

    @property
    def is_ready(self) -> bool:
        """Whether the matcher can be used."""
        if self._matcher is None and self.future is not None and self.future.done():
            failure = self.future.exception()
            if failure is None:
                self._matcher = self.future.result()
            else:
                self.fail(f"The grammar cannot be used: {failure}")
            self.future = None
        return self._matcher is not None

    @property
    def is_waiting(self) -> bool:
        """Whether the constraint is not ready, not closed and has no error."""
        return not self._is_closed and not self.is_ready and not self._error

    @property
    def num_accepted(self) -> int | None:
        """Number of accepted output tokens, or None while the constraint is not ready."""
        return self._num_accepted if self._matcher is not None else None

    @property
    def error(self) -> str:
        """The reason for which the sequence must end with an error, or an empty text."""
        if self.is_ready and self._matcher is not None and self._matcher.error:
            return f"The grammar cannot be continued: {self._matcher.error}"
        return self._error

    @property
    def is_complete(self) -> bool:
        """Whether the sequence ends now, because its output is complete and the request has no EOS
        token that the model can generate.
        """
        return self._matcher is not None and (
            not self._can_generate_eos and self._matcher.is_finished
        )

    def may_sample(self, *, is_pending: bool) -> bool:
        """Whether the step that is being planned may sample the next token. See
        `TokenConstraint.may_sample`.
        """
        if not self.is_ready or self.error or self.is_complete:
            return False
        if is_pending:
            return self._budget.reserve(self._last_mask_ns)
        if not self._has_mask and not self._budget.has_time:
            self._budget.defer(self)
            return False
        self.mask()
        return not self.error

    def mask(self) -> Int32Array | None:
        """Return the mask of the next token, int32 [mask width], or None if every token is
        allowed or if `error` is set.
        """
        if not self._has_mask and self._matcher is not None and not self._is_closed:
            self._has_mask = True
            self._is_masked = self._matcher.is_constrained
            if self._is_masked:
                self._fill(self._matcher)
        return self._words if self._is_masked else None

    def accept(self, token_id: int) -> None:
        """Append an output token. If the token is not allowed, `error` is set."""
        if self._matcher is None:
            raise AssertionError("a token was sampled before the constraint was ready")
        self._has_mask = self._is_masked = False
        self._num_accepted += 1
        self._matcher.accept(token_id)

    def close(self) -> None:
        """Release the matcher, or cancel the request for it."""
        self._budget.num_errors += bool(self.error)
        self._is_closed = True
        if self.future is not None:
            self.future.cancel()
            self.future = None

    def _fill(self, matcher: Matcher) -> None:
        started = self._budget.clock()
        matcher.fill(self._words)
        self._last_mask_ns = self._budget.clock() - started
        self._budget.mask_ns += self._last_mask_ns
        self._budget.num_masks += 1
        self._is_masked = not matcher.error


@final
class GuidanceManager:
    """Creates the constraints of sequences, and counts the work for them."""

    def __init__(
        self, clock: Callable[[], int], build: BuildPool = build_pool, budget_ns: int = _BUDGET_NS
    ) -> None:
        self.budget = MaskBudget(clock, budget_ns)
        self._clock = clock
        self._build = build
        self._thread: ThreadPoolExecutor | None = None  # builds the vocabulary
        self._data: VocabularyData | None = None
        self._pool: Future[Pool] | None = None
        self._waiting: list[SequenceConstraint] = []  # constraints that are not ready
        self._compile_ns: deque[int] = deque()
        self._num_hits = 0
        self._reported = GuidanceStats()  # totals of the work that was reported

    @property
    def has_vocabulary(self) -> bool:
        """Whether the vocabulary was set. Its construction may still be in progress."""
        return self._pool is not None

    def set_vocabulary(self, data: VocabularyData, vocab_size: int) -> None:
        """Set the vocabulary of all following sequences. It is built in a thread. `vocab_size` is
        the number of logits of the model. If the vocabulary has another size, the following
        sequences end with an error.
        """
        self._data = data
        if data.vocab_size != vocab_size:
            self._pool = Future()
            self._pool.set_exception(
                GrammarError(
                    f"it has masks for {data.vocab_size} ids, but the model has {vocab_size} ids"
                )
            )
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="vocabulary")
        self._pool = self._thread.submit(self._build, data)

    def constrain(self, request: Request, output_token_ids: Sequence[int]) -> SequenceConstraint:
        """Return the constraint of a sequence, which becomes ready later. The vocabulary must be
        set.
        """
        constraint = SequenceConstraint(request, output_token_ids, self.budget)
        self._waiting.append(constraint)
        self._start(constraint)
        return constraint

    def begin_step(self) -> None:
        """Begin to plan a step."""
        if self._waiting:
            self._update()
        self.budget.begin_step()

    def wait(self) -> None:
        """Wait until a constraint becomes ready, but at most a millisecond."""
        self._update()
        futures = [
            constraint.future for constraint in self._waiting if constraint.future is not None
        ]
        if futures:
            concurrent.futures.wait(futures, _WAIT_SECONDS, concurrent.futures.FIRST_COMPLETED)
        elif self._waiting and self._pool is not None:
            concurrent.futures.wait([self._pool], _WAIT_SECONDS)

    def take_stats(self) -> GuidanceStats | None:
        """Return the work since the last call, or None if there was no work."""
        before, budget = self._reported, self.budget
        compile_ns = [self._compile_ns.popleft() for _ in range(len(self._compile_ns))]
        self._reported = GuidanceStats(
            budget.mask_ns,
            budget.num_masks,
            before.num_compiled + len(compile_ns),
            before.compile_ns + sum(compile_ns),
            self._num_hits,
            budget.num_errors,
        )
        return self._reported.since(before)

    def close(self) -> None:
        """Stop all threads."""
        pool = self._built_pool()
        if pool is not None:
            pool.close()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _built_pool(self) -> Pool | None:
        built = self._pool
        if built is None or not built.done() or built.exception() is not None:
            return None
        return built.result()

    def _update(self) -> None:
        """Remove the constraints that are ready, and start the constraints that waited for the
        vocabulary.
        """
        self._waiting = [constraint for constraint in self._waiting if constraint.is_waiting]
        for constraint in self._waiting:
            if constraint.future is None:
                self._start(constraint)

    def _start(self, constraint: SequenceConstraint) -> None:
        """Request the matcher of a constraint, if the vocabulary is built."""
        if self._pool is None or self._data is None or not self._pool.done():
            return
        pool = self._built_pool()
        if pool is None:
            constraint.fail(f"The vocabulary cannot be used: {self._pool.exception()}")
            return
        guidance, started = constraint.request.guidance or Guidance(), self._clock()
        num_compiled = pool.num_compiled
        future = pool.request(guidance, constraint.output_token_ids)
        if pool.num_compiled > num_compiled:
            future.add_done_callback(lambda _: self._compile_ns.append(self._clock() - started))
        else:
            self._num_hits += 1
        width = -(-self._data.vocab_size // 32)
        constraint.start(future, width, self._data.eos_token_ids)
