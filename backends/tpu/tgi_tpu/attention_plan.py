"""Which implementation of attention runs, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import jax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from tgi.architectures import ModelSpec
from tgi_tpu.attention import AttentionRule, attend, write_pages
from tgi_tpu.mesh import AXIS
from tgi_tpu.step_arrays import StepArrays

__all__ = ["AttentionKernel", "AttentionPlan", "choose_attention", "write_and_attend"]

AttentionKernel = Literal["xla", "pallas", "jax"]
"""`xla`: plain operations; `pallas`: the kernel of this package; `jax`: the ragged paged attention that JAX ships."""


@final
@dataclass(frozen=True)
class AttentionPlan:
    """The chosen implementation. Hashable: a compiled model is made for it."""

    mesh: Mesh
    kernel: AttentionKernel = "xla"
    reasons: tuple[tuple[str, str], ...] = ()  # why not each of the others


def choose_attention(spec: ModelSpec, mesh: Mesh, *, platform: str, dtype: DTypeLike, block_size: int) -> AttentionPlan:
    """The fastest implementation that can run `spec` on `platform` (`cpu`, `tpu`)."""
    return AttentionPlan(mesh)


def write_and_attend(
    plan: AttentionPlan,
    qkv: tuple[jax.Array, jax.Array, jax.Array],
    pages: jax.Array,
    step: StepArrays,
    rule: AttentionRule,
    vectors: dict[str, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Write key and value [T, K, D] into the pages, then attend with the query [T, H, D]: (what it sees [T, H, D], pages).

    Every device does so for its own heads. `vectors` holds `alibi_slopes` and `sinks`, float32 [H], where a layer has them.
    """

    def on_device(
        qkv: tuple[jax.Array, jax.Array, jax.Array], pages: jax.Array, step: StepArrays, vectors: dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        query, key, value = qkv
        pages = write_pages(pages, key, value, step.slot_mapping)
        return attend(query, pages, step, rule, **vectors), pages

    if plan.mesh.size == 1:
        return on_device(qkv, pages, step, vectors)
    heads, paged, whole = PartitionSpec(None, AXIS), PartitionSpec(None, None, AXIS), PartitionSpec()
    divided = jax.shard_map(
        on_device,
        mesh=plan.mesh,
        in_specs=(heads, paged, whole, PartitionSpec(AXIS)),
        out_specs=(heads, paged),
        check_vma=False,
    )
    return divided(qkv, pages, step, vectors)
