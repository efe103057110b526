"""Decides when waiting prompts interrupt decoding, and limits the prefill tokens that delay other
sequences.
"""

from __future__ import annotations

from typing import NamedTuple, final

from tgi.backend import Limits, StepTimes
from tgi.scheduler.cache_parts import CacheNeed
from tgi.scheduler.kv_cache_manager import KVCacheManager
from tgi.scheduler.records import SchedulerConfig
from tgi.scheduler.state import WaitingQueue

__all__ = ["PrefillInterruption", "PrefillPace"]

# While sequences decode, no client should wait longer than half a second for its next token. The
# difference is a margin, because the duration of a chunk grows with the number of preceding tokens.
_STEP_NS = 420_000_000
# Minimum size of a prefill, so that it advances even if decoding alone takes longer
_MIN_TOKENS = 8
# Up to this number of tokens, most of the duration of a step does not depend on the number.
_FEW_TOKENS = 64


@final
class PrefillInterruption:
    """Decides when waiting prompts may interrupt decoding. This is allowed after
    `max_waiting_tokens` decode steps. It is also allowed if at least `waiting_served_ratio` x
    (number of running sequences) sequences wait, and this number of waiting sequences fits.
    """

    def __init__(self, config: SchedulerConfig, limits: Limits, cache: KVCacheManager) -> None:
        self._config = config
        self._limits = limits
        self._cache = cache
        self._num_decode_steps = 0  # number of decode steps since the last prefill step
        # The reason for the last admission. The reason is always "chunking" if prefill and decode
        # rows share steps, because then no step interrupts decoding.
        self.join_reason = "chunking"

    def note_prefill_step(self) -> None:
        """Record that a step of prefill rows was planned."""
        self._num_decode_steps = 1

    def note_decode_step(self) -> None:
        """Record that a step of decode rows was planned."""
        self._num_decode_steps += 1

    def is_due(self, waiting: WaitingQueue, num_running: int) -> bool:
        """Whether waiting sequences may be admitted now, in addition to `num_running` running
        sequences.
        """
        if self._num_decode_steps >= self._config.max_waiting_tokens:
            self.join_reason = "wait_exceeded"
            return True
        self.join_reason = "backpressure"
        min_size = int(num_running * self._config.waiting_served_ratio)
        if self._limits.max_prefills:
            min_size = min(min_size, self._limits.max_prefills)
        return self._can_join(waiting, num_running, min_size)

    def _can_join(self, waiting: WaitingQueue, num_running: int, min_size: int) -> bool:
        """Whether the first `min_size` waiting sequences fit into the next step and the cache."""
        limits, num_tokens, need = self._limits, 0, CacheNeed()
        for place, sequence in enumerate(waiting):
            if place == min_size:
                return True
            num_tokens += sequence.num_tokens + sequence.num_encoder_tokens
            need += self._cache.need(sequence)
            fits = limits.chunked or num_tokens <= limits.max_step_tokens
            has_place = num_running + place < limits.max_sequences
            if not (fits and has_place and self._cache.can_allocate(need, num_running)):
                return False
        return len(waiting) >= min_size


class _Pace(NamedTuple):
    num_tokens: int
    step_ns: int


@final
class PrefillPace:
    """Limits the tokens of a step with prefill rows in which other sequences wait for their next
    token.

    The durations that the worker measures determine the limit. A step of n tokens takes about
    a + b * n. The latest step with few tokens and the latest step with many tokens determine a and
    b.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._few: _Pace | None = None
        self._many: _Pace | None = None
        # The latest step without prefill rows. It is read only when a limit is needed.
        self.decode_step: tuple[int, StepTimes] | None = None

    def note(self, num_tokens: int, times: StepTimes) -> None:
        """Record the duration of a step. A worker may report 0 for all durations."""
        step_ns = times.prepare + times.forward + times.sample
        if step_ns and num_tokens <= _FEW_TOKENS:
            self._few = _Pace(num_tokens, step_ns)
        elif step_ns:
            self._many = _Pace(num_tokens, step_ns)

    def max_prefill_tokens(self, num_decode_rows: int) -> int:
        """Return the maximum number of prefill tokens in a step with this number of decode rows."""
        if self.decode_step is not None:
            self.note(*self.decode_step)
            self.decode_step = None
        smallest = max(_MIN_TOKENS, self._limits.chunk_multiple)
        few, many, largest = self._few, self._many, self._limits.max_step_tokens
        if few is None or many is None:
            known = few or many
            if known is None:
                return largest
            # The time of a step, divided by its tokens, is an upper bound of b for larger steps.
            limit = known.num_tokens * _STEP_NS // known.step_ns
            limit = limit if limit >= known.num_tokens else smallest
        else:
            limit = _largest_step(few, many)
        return max(smallest, limit - num_decode_rows)


def _largest_step(few: _Pace, many: _Pace) -> int:
    """Return the number of tokens with which a step lasts `_STEP_NS`. If one of the two steps was
    slow by chance, this step must not determine the result until the next measurement.
    """
    per_token = (many.step_ns - few.step_ns) / (many.num_tokens - few.num_tokens)
    if per_token <= 0:  # the small step was slow
        return many.num_tokens * _STEP_NS // many.step_ns
    limit = few.num_tokens + int((_STEP_NS - few.step_ns) / per_token)
    # The time of the small step, divided by its tokens, is an upper bound of b. This bound gives a
    # safe limit, also if the large step was slow.
    least = few.num_tokens * _STEP_NS // few.step_ns
    return max(limit, least) if least > few.num_tokens else limit
