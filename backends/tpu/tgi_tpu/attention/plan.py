"""Chooses the implementation of attention, and reports the reasons against the other
implementations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, final

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from tgi.architectures import Attention, ModelSpec
from tgi_tpu.attention.paged import AttentionRule, Vectors, attend, write_pages
from tgi_tpu.attention.ragged import ragged_attention
from tgi_tpu.coverage import kv_repeats
from tgi_tpu.mesh import AXIS
from tgi_tpu.model.layer_groups import attention_of
from tgi_tpu.step_arrays import StepArrays

__all__ = [
    "AttentionKernel",
    "AttentionPlan",
    "Candidate",
    "attention_candidates",
    "choose_attention",
    "write_and_attend",
]

AttentionKernel = Literal["jax", "pallas", "xla"]
"""`jax` is the ragged paged attention of JAX, `pallas` is this package's kernel, and `xla` is plain
operations.
"""

QKV = tuple[jax.Array, jax.Array, jax.Array]
"""The query [T, H, D], the key [T, K, D] and the value [T, K, D]."""

_QUERIES_PER_BLOCK = 32
_KEYS_PER_BLOCK = 128
_VMEM_BYTES = 64 << 20
"""Bytes of fast memory that JAX's kernel may use. Every TPU since v4 has more fast memory."""


@final
@dataclass(frozen=True)
class Candidate:
    """One implementation, and the reason why it was rejected. The reason is None for the chosen
    implementation.
    """

    kernel: AttentionKernel
    reason: str | None


@final
@dataclass(frozen=True)
class AttentionPlan:
    """The chosen implementation. The record is hashable, because it is a static argument of
    compiled programs.
    """

    mesh: Mesh
    kernel: AttentionKernel = "xla"
    interpret: bool = False  # emulate the Pallas kernel on another platform than a TPU
    candidates: tuple[Candidate, ...] = ()


def attention_candidates(
    spec: ModelSpec, tp_size: int, *, platform: str, dtype: DTypeLike, block_size: int
) -> tuple[Candidate, ...]:
    """List all implementations for `spec` on `tp_size` devices of `platform` (`cpu`, `tpu`).

    Exactly one is chosen: the first in the order of `AttentionKernel` that supports every layer.
    """
    mixers = dict.fromkeys(
        mixer for layer in spec.decoder.layers if (mixer := attention_of(layer)) is not None
    )
    reasons: dict[AttentionKernel, str | None] = {
        "jax": _first(_reason_against_jax(mixer, tp_size, dtype) for mixer in mixers),
        "pallas": _reason_against_pallas(block_size, dtype),
        "xla": None,
    }
    if platform != "tpu":
        reasons |= dict.fromkeys(
            ("jax", "pallas"), f"it is compiled for TPUs, and the platform is {platform}"
        )
    chosen = next(kernel for kernel, reason in reasons.items() if reason is None)
    return tuple(
        Candidate(kernel, None if kernel == chosen else reason or f"{chosen} is preferred")
        for kernel, reason in reasons.items()
    )


def choose_attention(
    spec: ModelSpec, mesh: Mesh, *, platform: str, dtype: DTypeLike, block_size: int
) -> AttentionPlan:
    """Build the plan with the implementation that `attention_candidates` chooses."""
    candidates = attention_candidates(
        spec, mesh.size, platform=platform, dtype=dtype, block_size=block_size
    )
    chosen = next(candidate.kernel for candidate in candidates if candidate.reason is None)
    return AttentionPlan(mesh, chosen, candidates=candidates)


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)


def _reason_against_jax(mixer: Attention, tp_size: int, dtype: DTypeLike) -> str | None:
    """Return the reason why JAX's kernel cannot compute a layer, or None if it can."""
    heads = mixer.num_kv_heads * kv_repeats(mixer, tp_size) // tp_size
    # Number of 32-bit rows of a token's heads on one device.
    packed = 2 * heads * jnp.dtype(dtype).itemsize / 4
    if mixer.alibi or mixer.sinks:
        return f"it has no {'ALiBi' if mixer.alibi else 'attention sinks'}"
    if packed not in (1, 2, 4) and packed % 8:
        return f"{heads} key heads on a device do not fill its registers"
    return None


def _reason_against_pallas(block_size: int, dtype: DTypeLike) -> str | None:
    """Return the reason why the kernel of this package cannot run, or None if it can."""
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
        return f"it supports float32 and bfloat16, and the cache is {jnp.dtype(dtype).name}"
    if block_size % 8:
        return f"its blocks contain a multiple of 8 tokens, and these contain {block_size}"
    return None


def write_and_attend(
    plan: AttentionPlan,
    qkv: QKV,
    pages: jax.Array,
    step: StepArrays,
    *,
    rule: AttentionRule,
    vectors: Vectors,
) -> tuple[jax.Array, jax.Array]:
    """Write keys and values to the pages, then compute attention of the queries.

    Every device computes its own heads. Returns the outputs [T, H, D] and the pages.
    """

    def on_device(
        qkv: QKV, pages: jax.Array, step: StepArrays, vectors: Vectors
    ) -> tuple[jax.Array, jax.Array]:
        head_dim = qkv[0].shape[-1]
        # The padding is zero, so it does not change the scores, and the padded part of the output
        # is zero.
        query, key, value = (
            jnp.pad(part, ((0, 0), (0, 0), (0, pages.shape[-1] - head_dim))) for part in qkv
        )
        pages = write_pages(pages, key, value, step.slot_mapping)
        return _attend(plan, query, pages, step, rule=rule, vectors=vectors)[..., :head_dim], pages

    if plan.mesh.size == 1:
        return on_device(qkv, pages, step, vectors)
    heads, paged, whole = (
        PartitionSpec(None, AXIS),
        PartitionSpec(None, None, AXIS),
        PartitionSpec(),
    )
    divided = jax.shard_map(
        on_device,
        mesh=plan.mesh,
        in_specs=(heads, paged, whole, PartitionSpec(AXIS)),
        out_specs=(heads, paged),
        check_vma=False,
    )
    return divided(qkv, pages, step, vectors)


def _attend(
    plan: AttentionPlan,
    query: jax.Array,
    pages: jax.Array,
    step: StepArrays,
    *,
    rule: AttentionRule,
    vectors: Vectors,
) -> jax.Array:
    match plan.kernel:
        case "xla":
            return attend(query, pages, step, rule, vectors)
        case "pallas":
            interpret = pltpu.InterpretParams() if plan.interpret else False
            return ragged_attention(query, pages, step, rule, vectors, interpret=interpret)
        case "jax":
            seen: jax.Array = ragged_paged_attention(
                query,
                pages,
                step.context_lens,
                step.block_tables,
                step.cu_query_lens,
                step.num_sequences,
                sm_scale=rule.scale,
                sliding_window=rule.window,
                soft_cap=rule.softcap,
                num_kv_pages_per_block=min(
                    step.block_tables.shape[1], max(1, _KEYS_PER_BLOCK // pages.shape[1])
                ),
                num_queries_per_block=_QUERIES_PER_BLOCK,
                vmem_limit_bytes=_VMEM_BYTES,
            )
            return seen
