"""Compiles grammars in threads, and caches them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Final, final

import msgspec

from tgi.grammar.matcher import Matcher
from tgi.grammar.vocabulary import Vocabulary
from tgi.types import Guidance

__all__ = ["MatcherPool"]

_CAPACITY: Final = 128
"""Default number of cached grammars. A usual grammar needs less than 1 MB. A lexer with the maximum
number of states needs up to 32 MB.
"""


@final
class MatcherPool:
    """Compiles grammars in `num_threads` threads and caches the last `capacity` grammars.

    `request` and `close` are called by one thread. Requests for a grammar that is being compiled
    wait for the same compilation.
    """

    def __init__(
        self, vocabulary: Vocabulary, num_threads: int = 2, capacity: int = _CAPACITY
    ) -> None:
        self._vocabulary = vocabulary
        self._capacity = capacity
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="grammar")
        self._starts: OrderedDict[bytes, Future[Matcher]] = OrderedDict()  # by digest
        self._copy_lock = Lock()
        self.num_compiled = 0
        self.num_hits = 0

    def request(self, guidance: Guidance, output_token_ids: Sequence[int] = ()) -> Future[Matcher]:
        """A matcher that has read `output_token_ids`. The future raises `GrammarError` if the
        grammar is invalid.
        """
        start = self._start_of(guidance)
        if output_token_ids:
            # A thread reads the tokens, because there may be thousands of them. The thread waits
            # for a compilation that an earlier task of the pool runs.
            return self._executor.submit(self._replayed, start, list(output_token_ids))
        result: Future[Matcher] = Future()
        start.add_done_callback(partial(self._deliver, result))
        return result

    def close(self) -> None:
        """Stop the threads. Compilations that have not begun are cancelled."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._starts.clear()

    def _start_of(self, guidance: Guidance) -> Future[Matcher]:
        digest = hashlib.blake2b(msgspec.msgpack.encode(guidance), digest_size=16).digest()
        start = self._starts.get(digest)
        if start is not None and not _is_exhausted(start):
            self._starts.move_to_end(digest)
            self.num_hits += 1
            return start
        start = self._executor.submit(Matcher, self._vocabulary, guidance)
        self.num_compiled += 1
        self._starts[digest] = start
        self._starts.move_to_end(digest)
        if len(self._starts) > self._capacity:
            self._starts.popitem(last=False)
        return start

    def _deliver(self, result: Future[Matcher], start: Future[Matcher]) -> None:
        """Complete `result` with a copy of the start state."""
        if start.cancelled() or not result.set_running_or_notify_cancel():
            result.cancel()
            return
        try:
            matcher = self._copy_of(start)
        except Exception as error:  # the boundary of a thread
            result.set_exception(error)
        else:
            result.set_result(matcher)

    def _replayed(self, start: Future[Matcher], token_ids: list[int]) -> Matcher:
        """Return a copy of the start state that has read `token_ids`."""
        matcher = self._copy_of(start)
        for token_id in token_ids:
            matcher.accept(token_id)
        return matcher

    def _copy_of(self, start: Future[Matcher]) -> Matcher:
        matcher = start.result()
        with self._copy_lock:  # only one thread at a time may use a matcher
            return matcher.copy()


def _is_exhausted(start: Future[Matcher]) -> bool:
    """Whether the grammar must be compiled again. An invalid grammar stays in the cache."""
    if not start.done() or start.cancelled() or start.exception() is not None:
        return start.cancelled()
    return start.result().has_exhausted_lexer
