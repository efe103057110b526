"""Matchers and a pool without a grammar library. The guidance of a request is a text such as
`even:4`: four even tokens, then EOS.
"""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from tgi.grammar.constraint import GrammarError
from tgi.grammar.vocabulary_data import VocabularyData

EOS = 99
VOCAB_SIZE = 100
VOCABULARY = VocabularyData([b"x"] * VOCAB_SIZE, [EOS], (EOS,), VOCAB_SIZE)
WIDTH = 4

KINDS = {
    "even": range(0, EOS, 2),
    "odd": range(1, EOS, 2),
    "dead": range(EOS),  # no token is allowed at the end
}


def mask_of(token_ids):
    """Return a mask, int32 [WIDTH]."""
    bits = np.zeros(WIDTH * 32, np.uint8)
    bits[list(token_ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


class FakeMatcher:
    """Implements the methods of `tgi.grammar.matcher.Matcher` that the engine calls. `clock` is the
    virtual clock, and each mask takes `mask_ns`.
    """

    def __init__(self, pool, guidance, output_token_ids):
        self._pool = pool
        self._kind, length = guidance.grammar.split(":")
        self._length = int(length)
        self._allowed = set(KINDS.get(self._kind, ()))
        self.output = []
        self.error = ""
        self.num_masks = 0
        for token_id in output_token_ids:
            self.accept(token_id)

    @property
    def is_constrained(self):
        return self._kind != "free" or len(self.output) >= self._length

    @property
    def is_finished(self):
        return self._kind != "dead" and len(self.output) >= self._length

    def accept(self, token_id):
        if self._kind == "rejecting":
            self.error = f"token {token_id} is not allowed"
        self.output.append(token_id)

    def fill(self, words):
        self.num_masks += 1
        self._pool.filled.append(self)
        self._pool.now += self._pool.mask_ns
        if len(self.output) < self._length:
            words[:] = mask_of(self._allowed or range(EOS))
        elif self._kind == "dead":
            words[:] = 0
            self.error = "no token is allowed"
        else:
            words[:] = mask_of([EOS])


class FakePool:
    """A pool whose compilations end when the test calls `finish`, or at once if `is_fast`."""

    def __init__(self, *, is_fast=True, mask_ns=0):
        self.is_fast, self.mask_ns = is_fast, mask_ns
        self.num_compiled = 0
        self.now = 0  # the virtual clock, in ns
        self.pending = []  # (future, guidance, output token ids)
        self.matchers = []
        self.filled = []  # the matcher of each mask, in order
        self.is_closed = False

    def clock(self):
        return self.now

    def request(self, guidance, output_token_ids=()):
        future = Future()
        self.num_compiled += 1
        self.pending.append((future, guidance, list(output_token_ids)))
        if self.is_fast:
            self.finish()
        return future

    def finish(self):
        """End all compilations."""
        pending, self.pending = self.pending, []
        for future, guidance, output_token_ids in pending:
            if not future.set_running_or_notify_cancel():
                continue
            if guidance.grammar.startswith("invalid"):
                future.set_exception(GrammarError("the keyword `not` is not supported"))
                continue
            self.matchers.append(FakeMatcher(self, guidance, output_token_ids))
            future.set_result(self.matchers[-1])

    def close(self):
        self.is_closed = True
