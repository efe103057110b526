"""When waiting prompts interrupt decoding, where the two do not share a step: TGI's two options."""

from __future__ import annotations

from typing import final

from tgi.backend import Limits
from tgi.scheduler.kv_cache_manager import CacheNeed, KVCacheManager
from tgi.scheduler.queue import WaitingQueue
from tgi.scheduler.records import SchedulerConfig

__all__ = ["PrefillInterruption"]


@final
class PrefillInterruption:
    """`max_waiting_tokens` decode steps have passed, or `waiting_served_ratio` x running sequences
    could join.
    """

    def __init__(self, config: SchedulerConfig, limits: Limits, cache: KVCacheManager) -> None:
        self._config = config
        self._limits = limits
        self._cache = cache
        self._num_decode_steps = 0  # since the last prefill step
        # why prompts were let in last; where nothing has to be interrupted, nothing else
        self.join_reason = "chunking"

    def note_prefill_step(self) -> None:
        """A step of prefill rows was planned."""
        self._num_decode_steps = 1

    def note_decode_step(self) -> None:
        """A step of decode rows was planned."""
        self._num_decode_steps += 1

    def is_due(self, waiting: WaitingQueue, num_running: int) -> bool:
        """Whether the waiting sequences may join now, beside `num_running` others."""
        if self._num_decode_steps >= self._config.max_waiting_tokens:
            self.join_reason = "wait_exceeded"
            return True
        self.join_reason = "backpressure"
        min_size = int(num_running * self._config.waiting_served_ratio)
        if self._limits.max_prefills:
            min_size = min(min_size, self._limits.max_prefills)
        return self._can_join(waiting, num_running, min_size)

    def _can_join(self, waiting: WaitingQueue, num_running: int, min_size: int) -> bool:
        """Whether the first `min_size` waiting sequences fit the next step and the cache."""
        limits, num_tokens, need = self._limits, 0, CacheNeed()
        for place, sequence in enumerate(waiting):
            if place == min_size:
                return True
            num_tokens += sequence.num_tokens + sequence.num_encoder_tokens
            need += self._cache.need(sequence)
            fits = limits.chunked or num_tokens <= limits.max_step_tokens
            has_place = num_running + place < limits.max_sequences
            if not (fits and has_place and self._cache.has_room(need, num_running)):
                return False
        return len(waiting) >= min_size
