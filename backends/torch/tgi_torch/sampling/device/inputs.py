"""The inputs of the sampler on the device: views of one flat buffer, which has a fixed layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

__all__ = ["FLOAT_FIELDS", "InputLayout", "SamplerInputs", "Span"]

FLOAT_FIELDS = frozenset(
    {
        "draws",
        "watermark_delta",
        "repetition_penalty",
        "relative_frequency_penalty",
        "frequency_penalty",
        "presence_penalty",
        "temperature",
        "top_p",
        "typical_p",
        "min_p",
        "bias_values",
    }
)
"""Fields of `SamplerInputs` whose words are float32. The words of all other fields are int32."""


@final
@dataclass(frozen=True)
class SamplerInputs:
    """The inputs of one step with R rows, [R] each unless stated. Padded rows have neutral values.

    The addresses of the tensors never change, so a captured graph reads the values of each step.
    All fields except `previous` are views of one buffer, in the order of the fields. The masks are
    last, because they may be copied to the device after the other fields.
    """

    greedy: Tensor  # int32, 1 = greedy
    watermark_last_green: Tensor  # int32 with the bits of a uint32, the greatest green hash
    watermark_delta: Tensor  # float32, 0 = no watermark
    count_slots: Tensor  # int32, the slot in `TokenCounts`, or its spare slot
    repetition_penalty: Tensor  # float32
    relative_frequency_penalty: Tensor  # float32
    frequency_penalty: Tensor  # float32
    presence_penalty: Tensor  # float32
    temperature: Tensor  # float32
    top_k: Tensor  # int32, 0 = off
    top_p: Tensor  # float32, 1 = off
    typical_p: Tensor  # float32, 1 = off
    min_p: Tensor  # float32, 0 = off
    logprobs: Tensor  # int32, a value of `LogprobsKind`
    top_n_tokens: Tensor  # int32
    bias_rows: Tensor  # int32 [E]; padded entries add 0 to the first token of row 0
    bias_tokens: Tensor  # int32 [E]
    bias_values: Tensor  # float32 [E]
    draws: Tensor  # float32 in [0, 1), read with a precision of 30 bits
    lengths: Tensor  # int32, number of prompt and output ids before the sampled one
    is_masked: Tensor  # int32, 1 = the row's words of `mask_words` apply
    mask_words: Tensor  # int32 [R, W], the allowed tokens as bits
    previous: Tensor  # int32, the id before the sampled one, written on the device by the caller


@final
@dataclass(frozen=True)
class Span:
    """The position of one field in the flat buffer, in words of four bytes."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """Index of the first word after the field."""
        return self.start + math.prod(self.shape)


@final
@dataclass(frozen=True)
class InputLayout:
    """The fixed sizes of the inputs of one graph, and the positions of the fields in the buffer."""

    num_rows: int  # R
    vocab_size: int
    num_biases: int  # E, the maximum number of logit biases of all rows together

    @property
    def mask_width(self) -> int:
        """Number of int32 words of one mask, W."""
        return -(-self.vocab_size // 32)

    @property
    def num_words(self) -> int:
        """Length of the buffer."""
        return self.span("mask_words").stop

    def span(self, name: str) -> Span:
        """Return the position of one field."""
        return next(span for span in self.spans() if span.name == name)

    def spans(self) -> Iterator[Span]:
        """Iterate over the positions of all fields in the buffer."""
        shapes: dict[str, tuple[int, ...]] = {
            "bias_rows": (self.num_biases,),
            "bias_tokens": (self.num_biases,),
            "bias_values": (self.num_biases,),
            "mask_words": (self.num_rows, self.mask_width),
        }
        start = 0
        for field in fields(SamplerInputs):
            if field.name != "previous":
                span = Span(field.name, start, shapes.get(field.name, (self.num_rows,)))
                yield span
                start = span.stop

    def views(self, buffer: Tensor, previous: Tensor) -> SamplerInputs:
        """Return the views of `buffer` (int32 [`num_words`]) beside `previous` (int32 [R])."""
        tensors = {}
        for span in self.spans():
            words = buffer.narrow(0, span.start, span.stop - span.start).view(span.shape)
            tensors[span.name] = words.view(torch.float32) if span.name in FLOAT_FIELDS else words
        return SamplerInputs(**tensors, previous=previous)
