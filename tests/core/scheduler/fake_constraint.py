"""A constraint without a grammar library: the allowed tokens are a function of a seed and the
preceding output tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from tests.core.scheduler.checking_worker import VOCAB_SIZE

EOS = 7
WIDTH = 4  # int32 words of a mask


def pack(allowed):
    """Return the mask of the token ids `allowed`, int32 [WIDTH]."""
    bits = np.zeros(WIDTH * 32, np.uint8)
    bits[list(allowed)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


@dataclass(frozen=True)
class FakeGrammar:
    """The text is complete after `length` tokens. Then only EOS is allowed. Some positions allow
    every token. If `has_dead_end` is set, no token is allowed after `length` tokens.
    """

    seed: int
    length: int = 10**6
    has_dead_end: bool = False

    def allowed(self, output):
        """Return the tokens that are allowed after the tokens `output`, or None for all tokens."""
        if len(output) >= self.length:
            return {EOS}
        rng = random.Random(f"{self.seed} {output}")
        if rng.random() < 0.25:
            return None
        return set(rng.sample(range(VOCAB_SIZE), rng.randint(1, VOCAB_SIZE - 1))) - {EOS} or {0}


@dataclass
class FakeConstraint:
    """Implements `TokenConstraint`. `ready` is called until it returns True. `has_time` decides
    whether a mask may be computed in this step.
    """

    grammar: FakeGrammar
    output: list[int] = field(default_factory=list)
    eos_token_ids: tuple[int, ...] = ()
    ready: object = lambda: True
    has_time: object = lambda: True
    error: str = ""
    is_ready: bool = False
    num_masks: int = 0
    num_closed: int = 0
    masked_at: int = -1  # number of output tokens for which `mask` was computed
    words: object = None

    @property
    def num_accepted(self):
        return len(self.output) if self.is_ready else None

    @property
    def is_complete(self):
        return (
            self.is_ready
            and len(self.output) >= self.grammar.length
            and not self.grammar.has_dead_end
            and EOS not in self.eos_token_ids
        )

    def may_sample(self, *, is_pending):
        self.is_ready = self.is_ready or self.ready()
        if not self.is_ready or self.error or self.is_complete:
            return False
        if self.masked_at == len(self.output) and not is_pending:
            return not self.error
        if not self.has_time():
            return False
        if not is_pending:
            self.mask()
        return not self.error

    def mask(self):
        if self.masked_at != len(self.output):
            self.masked_at = len(self.output)
            allowed = self.grammar.allowed(self.output)
            self.num_masks += allowed is not None
            self.words = None if allowed is None else pack(allowed)
            if self.grammar.has_dead_end and len(self.output) >= self.grammar.length:
                self.error, self.words = "dead end", None
        return self.words

    def accept(self, token_id):
        assert self.is_ready, "a token was sampled before the constraint was ready"
        allowed = self.grammar.allowed(self.output)
        assert allowed is None or token_id in allowed, "a token was sampled without its mask"
        self.output.append(token_id)

    def close(self):
        self.num_closed += 1
