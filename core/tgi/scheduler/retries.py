"""What happens to the sequences of a step that failed and may be tried again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from tgi.backend import Limits
from tgi.scheduler.sequence import Sequence

__all__ = ["RetryManager"]

_MAX_REPEATS = 2  # of a step that cannot be made smaller


@final
class RetryManager:
    """Sequences of failed steps are tried again apart from the others, in steps of half the size.

    So a step that was too large succeeds in parts, and of a step with one bad sequence all others
    go on: it fails alone at last, and ends. A sequence is under suspicion from the failure until
    its next token.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._failed_sequences: dict[int, Sequence] = {}  # by id
        self.max_rows = limits.max_sequences  # of the steps in which they are tried again
        self.max_tokens = limits.max_step_tokens

    @property
    def has_failed_sequences(self) -> bool:
        """Whether sequences wait for a trial, or for its result."""
        return bool(self._failed_sequences)

    def shrink(self, num_rows: int, num_tokens: int) -> bool:
        """A step of that size failed: make the next trial smaller. False = it cannot be."""
        multiple = self._limits.chunk_multiple
        if num_rows > 1:
            self.max_rows = min(self.max_rows, num_rows // 2)
        elif self._limits.chunked and num_tokens > multiple:
            self.max_rows = 1
            self.max_tokens = min(self.max_tokens, max(num_tokens // 2 // multiple, 1) * multiple)
        else:
            return False
        return True

    def may_repeat(self, sequence: Sequence) -> bool:
        """Whether a sequence may be tried again that failed in a step as small as can be."""
        return sequence.num_repeats < _MAX_REPEATS

    def note_failure(self, sequence: Sequence, *, is_repeat: bool) -> None:
        """A step with this sequence failed; `is_repeat` says that it will run in a step of the same
        size.
        """
        sequence.has_failed_step = True
        sequence.num_repeats += is_repeat
        self._failed_sequences[sequence.sequence_id] = sequence

    def clear(self, sequence: Sequence) -> None:
        """It has a token, or it ended. After the last one, steps are as large as agreed again."""
        sequence.has_failed_step = False
        sequence.num_repeats = 0
        del self._failed_sequences[sequence.sequence_id]
        if not self._failed_sequences:
            self.max_rows, self.max_tokens = (
                self._limits.max_sequences,
                self._limits.max_step_tokens,
            )

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Raise AssertionError if a suspect is unknown or unmarked."""
        marked = {sequence.sequence_id for sequence in sequences if sequence.has_failed_step}
        assert marked == self._failed_sequences.keys(), (
            f"sequences {marked} are suspects, not {set(self._failed_sequences)}"
        )
