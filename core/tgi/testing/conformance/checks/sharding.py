"""A check of tensor parallelism: a model on several devices matches the reference."""

from __future__ import annotations

from collections.abc import Sequence

from tgi.backend import SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check, not_applicable
from tgi.testing.conformance.expectations import check_sequences

__all__ = ["CHECKS"]

_SIZES = (4, 2)  # the tiny model has 2 kv heads: 4 devices share them, or the backend rejects 4


def _tensor_parallel(under_test: BackendUnderTest) -> None:
    model = under_test.models.get()
    sizes = [size for size in _SIZES if under_test.supports(model, num_shard=size)]
    not_applicable(not sizes, "no model on several devices is supported here")
    for size in sizes:
        with under_test.serving(model, num_shard=size) as core:
            sampling = SamplingParams(logprobs="raw" if core.agreement.has("logprobs") else "none")
            count = min(3, core.agreement.limits.max_sequences)
            sequences = [core.add(prompt_of(3 + 30 * i, seed=i), sampling) for i in range(count)]
            core.generate(sequences, 6)
            check_sequences(model, sequences, core.agreement)


CHECKS: Sequence[Check] = (
    Check(
        "C-37",
        "serving",
        "a model on several devices matches the reference",
        _tensor_parallel,
        apart=True,
    ),
)
