"""A small substitute for a runner: builds padded arrays from rows of tokens, and runs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import jax
import numpy as np

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import tensor_shapes
from tgi_tpu.attention.cache import Cache
from tgi_tpu.attention.plan import AttentionPlan
from tgi_tpu.mesh import make_mesh
from tgi_tpu.model import decoder
from tgi_tpu.step_arrays import StepArrays
from tgi_tpu.weights.parameters import Parameters, ParameterStore

__all__ = ["Runner", "Sequence", "draw_weights", "parameters_of"]


def draw_weights(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw random parameters by name, every one of which affects the logits."""
    generator = np.random.default_rng(seed)
    weights = {}
    for parameter, shape in tensor_shapes(spec).items():
        drawn = generator.standard_normal(shape).astype(np.float32)
        is_norm = "norm" in parameter and parameter.endswith("weight")
        weights[parameter] = (1 + 0.1 * drawn) if is_norm else 0.15 * drawn
    return weights


def parameters_of(
    spec: ModelSpec,
    weights: dict[str, np.ndarray],
    mesh: jax.sharding.Mesh | None = None,
    **options,
) -> Parameters:
    store = ParameterStore(
        spec, mesh or make_mesh(1, "cpu"), options.pop("dtype", "float32"), **options
    )
    for parameter, array in weights.items():
        store.write(parameter, array)
    return store.finish()


@dataclass
class Sequence:
    """One sequence and its blocks, which may be anywhere in the cache."""

    token_ids: list[int]
    blocks: list[int]
    num_computed: int = 0
    logits: list[np.ndarray] = field(default_factory=list)


class Runner:
    """Runs steps of one model in one bucket."""

    def __init__(
        self,
        spec: ModelSpec,
        parameters: Parameters,
        plan: AttentionPlan | None = None,
        *,
        num_blocks: int = 40,
        block_size: int = 4,
        tokens: int = 24,
        sequences: int = 4,
        width: int = 8,
        dtype: str = "float32",
    ) -> None:
        self.plan = plan or AttentionPlan(make_mesh(1, "cpu"))
        self.parameters, self.block_size = parameters, block_size
        self.num_slots = num_blocks * block_size
        self.bucket = (tokens, sequences, width)
        cache = decoder.empty_cache(spec, num_blocks, block_size, dtype, self.plan.mesh)
        # Slots that were never written may contain anything.
        self.cache: Cache = jax.tree.map(lambda pages: pages.at[:].set(np.nan), cache)
        self.forward = jax.jit(
            partial(decoder.forward, spec, attention=self.plan), donate_argnums=1
        )

    def arrays(
        self, work: list[tuple[Sequence, int]], bucket: tuple[int, int, int] | None = None
    ) -> StepArrays:
        """Build the arrays for the next tokens of each sequence. Every token gets logits."""
        num_tokens, num_sequences, width = bucket or self.bucket
        ids, positions, slots, lens, contexts, tables, rotary = [], [], [], [], [], [], []
        for sequence, count in work:
            first = sequence.num_computed
            ids += sequence.token_ids[first : first + count]
            positions += range(first, first + count)
            slots += [
                sequence.blocks[p // self.block_size] * self.block_size + p % self.block_size
                for p in range(first, first + count)
            ]
            lens.append(count)
            contexts.append(first + count)
            rotary.append(max(first + count, len(sequence.token_ids)))
            tables.append(sequence.blocks + [0] * (width - len(sequence.blocks)))
        assert len(ids) <= num_tokens and len(work) <= num_sequences
        spare = num_sequences - len(work)
        return StepArrays(
            **{
                name: np.asarray(values, np.int32)
                for name, values in {
                    "token_ids": ids + [0] * (num_tokens - len(ids)),
                    "positions": positions + [0] * (num_tokens - len(ids)),
                    "slot_mapping": slots + [self.num_slots] * (num_tokens - len(ids)),
                    "cu_query_lens": np.cumsum([0, *lens, *[0] * spare]),
                    "context_lens": contexts + [0] * spare,
                    "block_tables": tables + [[0] * width] * spare,
                    "num_sequences": [len(work)],
                    "logit_indices": list(range(len(ids))) + [0] * (num_tokens - len(ids)),
                    "rotary_lens": rotary + [0] * spare,
                }.items()
            }
        )

    def step(
        self, work: list[tuple[Sequence, int]], bucket: tuple[int, int, int] | None = None
    ) -> None:
        logits, self.cache = self.forward(self.parameters, self.cache, self.arrays(work, bucket))
        rows = iter(np.asarray(logits))
        for sequence, count in work:
            sequence.logits += [next(rows) for _ in range(count)]
            sequence.num_computed += count
