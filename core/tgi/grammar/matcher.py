"""The token masks of one sequence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from llguidance import LLMatcher

from tgi.grammar.constraint import GrammarError
from tgi.grammar.lark import resolved_markers
from tgi.grammar.limits import MAX_MASK_NS, parser_limits
from tgi.grammar.messages import DEAD_END, is_out_of_states, is_rejected_token, one_sentence
from tgi.grammar.reasoning import Phase, Reasoning
from tgi.grammar.token_table import Int32Array
from tgi.grammar.vocabulary import Vocabulary
from tgi.types import Guidance

__all__ = ["Matcher"]

_NOT_ALLOWED: Final = "the grammar does not allow token {token_id} at this position"


@final
@dataclass
class _Lexer:
    """The state that all copies of a matcher share: llguidance shares the lexer among copies."""

    is_exhausted: bool = False  # the lexer has its maximum number of states


@final
class Matcher:
    """The constraints on the output of one sequence. A matcher is used by one thread at a time.

    The constructor compiles the grammar and computes its first mask. The constructor can take
    hundreds of milliseconds and releases the GIL during this time. It raises `GrammarError`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        guidance: Guidance,
        clock: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        limits = guidance.reasoning
        reasoning = None if limits is None else Reasoning(vocabulary, limits)
        parser = _parser(vocabulary, guidance.grammar) if guidance.grammar else None
        self._set(vocabulary, clock, reasoning, parser, _Lexer())

    def copy(self) -> Matcher:
        """Return a matcher in the start state. Only a matcher that has accepted no token can be
        copied.
        """
        other = object.__new__(Matcher)
        reasoning = None if self._reasoning is None else self._reasoning.copy()
        parser = None if self._parser is None else self._parser.deep_copy()
        other._set(self._vocabulary, self._clock, reasoning, parser, self._lexer)
        return other

    def _set(
        self,
        vocabulary: Vocabulary,
        clock: Callable[[], int],
        reasoning: Reasoning | None,
        parser: LLMatcher | None,
        lexer: _Lexer,
    ) -> None:
        self._vocabulary = vocabulary
        self._clock = clock
        self._reasoning = reasoning
        self._parser = parser
        self._lexer = lexer
        self._start: LLMatcher | None = None  # the start state, while the output may be a tag
        self._fits = True  # the grammar allows the output so far
        self._has_ended = False  # an EOS token was accepted
        self.error = ""
        self.mask_ns = 0  # processor time of all masks

    @property
    def is_constrained(self) -> bool:
        """Whether the next token needs a mask."""
        phase = self._phase
        is_text_limited = phase is Phase.INSIDE or self._is_text_empty(phase)
        return self._parser is not None or is_text_limited

    @property
    def is_finished(self) -> bool:
        """Whether the grammar is complete and only EOS can follow."""
        if self._has_ended:
            return True
        if self._parser is None or not self._parser.is_stopped():
            return False
        phase = self._phase
        is_text = phase is Phase.AFTER or phase is Phase.TEXT
        return is_text and self._parser.is_accepting()

    @property
    def has_exhausted_lexer(self) -> bool:
        """Whether a copy of this matcher reached the maximum number of lexer states. Every further
        copy can then fail.
        """
        return self._lexer.is_exhausted

    def accept(self, token_id: int) -> None:
        """Read a sampled token. A token that the mask did not allow sets `error`."""
        if self.error or self._has_ended:
            return
        phase = self._phase
        if not 0 <= token_id < self._vocabulary.table.num_tokens:
            self.error = _NOT_ALLOWED.format(token_id=token_id)
        elif token_id in self._vocabulary.eos_token_ids and phase is not Phase.INSIDE:
            self._accept_end(token_id, phase)
        elif self._reasoning is None or phase is Phase.TEXT:
            self._consume(token_id)
        else:
            start = self._copied_start()
            self.error = self._reasoning.accept(token_id)
            self._follow(phase, token_id, start)

    def fill(self, words: Int32Array) -> None:
        """Write the mask of the next token to `words` [mask_width]. The mask is never empty. If the
        grammar allows no token, or if it exceeds a limit, `error` is set.
        """
        if self.error:
            words[:] = 0
        else:
            started = self._clock()
            self._fill(words)
            self.mask_ns += self._clock() - started
        if self.mask_ns > MAX_MASK_NS and not self.error:
            self.error = (
                f"the masks of the grammar took more than {MAX_MASK_NS // 1_000_000} ms in total;"
                " use a simpler grammar"
            )
        if not words.any():
            if not self.is_finished:
                self.error = self.error or DEAD_END
            has_end = bool(self._vocabulary.eos_token_ids)
            words[:] = self._vocabulary.eos_mask if has_end else self._vocabulary.text_mask

    @property
    def _phase(self) -> Phase:
        return Phase.TEXT if self._reasoning is None else self._reasoning.phase

    def _accept_end(self, token_id: int, phase: Phase) -> None:
        """Read an EOS token. An empty text is not allowed if the output may contain reasoning."""
        if self._parser is None:
            is_allowed = not self._is_text_empty(phase)
        else:
            is_allowed = self._fits and self._parser.consume_token(token_id)
        if is_allowed:
            self._has_ended = True
        else:
            self.error = _NOT_ALLOWED.format(token_id=token_id)

    def _is_text_empty(self, phase: Phase) -> bool:
        """Whether the final text, or an output without reasoning, is empty or whitespace."""
        is_in_tag = self._reasoning is not None and self._reasoning.is_in_first_tag
        return phase is Phase.AFTER or (phase is Phase.BEFORE and not is_in_tag)

    def _follow(self, before: Phase, token_id: int, start: LLMatcher | None) -> None:
        """Update the parser after `Reasoning.accept` has read a token. The grammar does not apply
        to the text of the reasoning. The start of a tag can also be the start of a text that the
        grammar allows.
        """
        if self._parser is None or before is Phase.INSIDE:
            return
        if before is Phase.AFTER:
            self._consume(token_id)
        elif self._phase is Phase.TEXT:
            self._start = None
            if self._fits:
                self._consume(token_id)
            else:
                self.error = _NOT_ALLOWED.format(token_id=token_id)
        elif self._phase is Phase.BEFORE:
            self._start = self._start or start
            self._fits = self._fits and self._parser.try_consume_tokens([token_id]) == 1
        else:
            self._parser = self._start or self._parser
            self._start, self._fits = None, True

    def _copied_start(self) -> LLMatcher | None:
        """The start state of the grammar, before the first token that may belong to a tag."""
        if self._parser is None or self._start is not None or self._phase is not Phase.BEFORE:
            return None
        return self._parser.deep_copy()

    def _consume(self, token_id: int) -> None:
        if self._parser is None or self._parser.consume_token(token_id):
            return
        self._fail(self._parser)
        if is_rejected_token(self._parser.get_error()):
            self.error = _NOT_ALLOWED.format(token_id=token_id)

    def _fail(self, parser: LLMatcher) -> None:
        message = parser.get_error()
        self._lexer.is_exhausted |= is_out_of_states(message)
        self.error = one_sentence(message)

    def _fill(self, words: Int32Array) -> None:
        if self._phase is Phase.INSIDE:
            assert self._reasoning is not None
            words[:] = self._reasoning.mask(is_strict=self._parser is not None)
            return
        if self._parser is None:
            words[:] = self._vocabulary.text_mask
        elif self._fits:
            self._fill_from(self._parser, words)
        else:
            words[:] = 0
        if self._phase is Phase.AFTER:
            self._forbid_empty_text(words)
        elif self._parser is None:
            if not self._is_text_empty(self._phase):
                words |= self._vocabulary.eos_mask
        elif self._phase is Phase.BEFORE:
            assert self._reasoning is not None
            words |= self._vocabulary.table.mask_of(self._reasoning.start_ids())

    def _fill_from(self, parser: LLMatcher, words: Int32Array) -> None:
        """Write the mask of the grammar, or zeros if the parser reports an error."""
        width = self._vocabulary.parser_mask_width
        is_direct = len(words) == width and words.flags.c_contiguous
        buffer = words if is_direct else np.empty(width, np.int32)
        parser.unsafe_compute_mask_ptr(buffer.ctypes.data, buffer.nbytes)
        if parser.is_error():
            self._fail(parser)
            words[:] = 0
        elif not self._vocabulary.eos_token_ids:
            # The additional EOS id of llguidance is the first id after the vocabulary.
            words[:] = buffer[: len(words)] & self._vocabulary.text_mask
        elif not is_direct:
            words[:] = buffer[: len(words)]

    def _forbid_empty_text(self, words: Int32Array) -> None:
        """Forbid EOS, unless the grammar allows no other token."""
        others = words & ~self._vocabulary.eos_mask
        if others.any():
            words[:] = others


def _parser(vocabulary: Vocabulary, grammar: str) -> LLMatcher:
    """Compile a grammar, compute its first mask and try one token, because some errors occur only
    in these operations. An EOS token is not tried, because it reads no part of the grammar.
    """
    grammar = resolved_markers(grammar, vocabulary.table, vocabulary.special_ids)
    # Without forced tokens, the model chooses how it divides a text into tokens.
    text = f'{grammar}\n%llguidance {{"no_forcing": true}}'
    parser = LLMatcher(vocabulary.tokenizer, text, log_level=0, limits=parser_limits())
    _check(parser)
    mask = np.empty(vocabulary.parser_mask_width, np.int32)
    parser.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
    _check(parser)
    if not mask.any():
        raise GrammarError(DEAD_END)
    text_mask = vocabulary.text_mask
    bits = np.unpackbits((mask[: len(text_mask)] & text_mask).view(np.uint8), bitorder="little")
    if bits.any():
        copy = parser.deep_copy()
        copy.consume_token(int(np.argmax(bits)))
        _check(copy)
    return parser


def _check(parser: LLMatcher) -> None:
    if parser.is_error():
        raise GrammarError(one_sentence(parser.get_error()))
