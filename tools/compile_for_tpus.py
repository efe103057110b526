"""Compiles whole steps of the TPU backend for TPU chips on a machine without a TPU, and records the
compiler's memory analysis.

    make check-tpu

libtpu contains the compiler for the chips and runs without a chip. Each case is a model of a
published size on eight chips. A step consists of two programs, the forward pass and the sampler,
which are compiled as a worker compiles them. The tool checks five conditions for the forward pass,
and the last of them for the sampler:

* attention runs in a custom kernel;
* the chips exchange partial sums;
* the cache is updated in place;
* no large array is copied;
* the program fits into the memory of a chip.

The results are written to `docs/backends/compiled/tpu.json`. A chip is added to `compiled_for` when
every case has been compiled for it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh
from jax.stages import Compiled

from tgi.architectures import ModelSpec, load_spec
from tgi_tpu.attention.cache import abstract_cache
from tgi_tpu.attention.plan import choose_attention
from tgi_tpu.mesh import mesh_of, replicated
from tgi_tpu.programs import forward
from tgi_tpu.sampling.parameters import sampling_arrays
from tgi_tpu.sampling.sampler import SampledRows, SamplingArrays, sample
from tgi_tpu.step_arrays import StepArrays
from tgi_tpu.weights.parameters import abstract_parameters

OUTCOME = Path(__file__).parents[1] / "docs" / "backends" / "compiled" / "tpu.json"
BLOCK_SIZE = 32

SAMPLED_ROWS, VOCABULARY = 64, 128256
SAMPLER = f"sampler, {SAMPLED_ROWS} rows of {VOCABULARY}"
MAX_COPY = 64 << 20
ITEM_BYTES = {"bf16": 2, "s8": 1, "u8": 1, "pred": 1}  # All other types are counted as 4 bytes.


class Chip(NamedTuple):
    """A type of TPU chip."""

    topology: str  # The name of a topology of eight chips.
    memory: int  # The bytes of memory that the compiler allows a program to use.


CHIPS = {"v5e": Chip("v5e:2x4", int(15.75 * 2**30)), "v6e": Chip("v6e:2x4", int(31.25 * 2**30))}

_LLAMA = {
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "vocab_size": 128256,
    "num_key_value_heads": 8,
}
_LLAMA_8B = _LLAMA | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
_LLAMA_70B = _LLAMA_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
_MIXTRAL = _LLAMA_8B | {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
_MPT_7B = {
    "model_type": "mpt",
    "d_model": 4096,
    "n_heads": 32,
    "n_layers": 32,
    "max_seq_len": 8192,
    "vocab_size": 50432,
}

_GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "rope_theta": 150000.0,
}


@dataclass(frozen=True)
class Case:
    """A model and the sizes of a step."""

    name: str
    config: dict[str, Any]
    quantization: Any  # None or "int8".
    num_blocks: int  # Number of blocks in the cache.
    tokens: int
    sequences: int
    blocks_per_sequence: int


CASES = (
    Case("llama 8B, decode", _LLAMA_8B, None, 4096, 64, 64, 64),
    Case("llama 70B int8, prefill", _LLAMA_70B, "int8", 2048, 1024, 64, 64),
    Case("mixtral 8x7B int8, mixed", _MIXTRAL, "int8", 2048, 256, 64, 64),
    Case("mpt 7B, mixed", _MPT_7B, None, 512, 256, 64, 64),
    Case("gpt-oss 20B, decode", _GPT_OSS_20B, None, 2048, 64, 64, 64),
)


def abstract(mesh: Mesh, *shape: int, dtype: Any = jnp.int32) -> Any:  # noqa: ANN401 - an abstract array
    """Return an abstract array that is replicated on every chip."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(mesh))


def forward_inputs(case: Case, spec: ModelSpec, mesh: Mesh) -> tuple[Any, ...]:
    """Return the arguments of `forward` after `spec` and `plan`, as abstract arrays."""
    array, tokens, rows = partial(abstract, mesh), case.tokens, case.sequences
    step = StepArrays(
        token_ids=array(tokens),
        positions=array(tokens),
        slot_mapping=array(tokens),
        cu_query_lens=array(rows + 1),
        context_lens=array(rows),
        block_tables=array(rows, case.blocks_per_sequence),
        num_sequences=array(1),
        logit_indices=array(rows),
        rotary_lens=array(rows),
    )
    cache = abstract_cache(spec, case.num_blocks, BLOCK_SIZE, jnp.bfloat16, mesh)
    weights = abstract_parameters(spec, mesh, jnp.bfloat16, case.quantization)
    return (
        weights,
        cache,
        array(rows + 1, case.blocks_per_sequence * BLOCK_SIZE),
        array(tokens),
        step,
    )


def sampler_inputs(mesh: Mesh) -> tuple[Any, ...]:
    """Return the arguments of `sample`, as abstract arrays."""
    array, rows = partial(abstract, mesh), SAMPLED_ROWS
    neutral = sampling_arrays([], rows)
    parameters = SamplingArrays(
        **{name: array(*value.shape, dtype=value.dtype) for name, value in neutral.items()}
    )
    sampled_rows = SampledRows(
        array(rows), array(rows), array(rows), array(rows, dtype=jnp.float32)
    )
    logits, words = array(rows, VOCABULARY, dtype=jnp.float32), array(rows, -(-VOCABULARY // 32))
    return logits, array(rows + 1, 2048), sampled_rows, parameters, words


def spec_of(config: dict[str, Any]) -> ModelSpec:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        spec = load_spec(Path(folder))
    assert isinstance(spec, ModelSpec)
    return spec


def compiled(
    program: Callable[..., Any], donated: tuple[int, ...], inputs: tuple[Any, ...], mesh: Mesh
) -> Compiled:
    with jax.set_mesh(mesh):
        return jax.jit(program, donate_argnums=donated).lower(*inputs).compile()


def compile_case(case: Case, chip: str, mesh: Mesh) -> dict[str, Any]:
    """Compile the forward pass of one case. Raises `AssertionError` if a condition is not met, or
    the compiler's error.
    """
    spec = spec_of(case.config)
    plan = choose_attention(spec, mesh, platform="tpu", dtype=jnp.bfloat16, block_size=BLOCK_SIZE)
    inputs = forward_inputs(case, spec, mesh)
    program = compiled(partial(forward, spec, plan), (1, 2), inputs, mesh)
    text, alias = program.as_text(), program.memory_analysis().alias_size_in_bytes
    assert "tpu_custom_call" in text, "attention does not run in a custom kernel"
    assert "all-reduce" in text, "the chips do not exchange partial sums"
    assert alias >= sum(
        math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in inputs[1]
    ), "the cache is not updated in place"
    assert (copied := largest_copy(text)) <= MAX_COPY, (
        f"{copied} bytes are copied from one layout to another in every step"
    )
    return {"case": case.name, "chip": chip, "attention": plan.kernel, **memory_of(program, chip)}


def largest_copy(text: str) -> int:
    """Return the bytes of the largest array that a program copies outside fused operations."""
    fused = set(re.findall(r" fusion\(.* calls=%([\w.\-]+)", text))
    largest, computation = 0, ""
    for line in text.splitlines():
        if begins := re.match(r"(?:ENTRY )?%([\w.\-]+) \(", line):
            computation = begins[1]
        if (copy := re.search(r"= (\w+)\[([\d,]+)\]\S* copy\(", line)) and computation not in fused:
            largest = max(
                largest, ITEM_BYTES.get(copy[1], 4) * math.prod(map(int, copy[2].split(",")))
            )
    return largest


def compile_sampler(chip: str, mesh: Mesh) -> dict[str, Any]:
    """Compile the sampler. Raises `AssertionError` if it does not fit into the memory of a chip."""
    program = compiled(sample, (1,), sampler_inputs(mesh), mesh)
    return {"case": SAMPLER, "chip": chip, **memory_of(program, chip)}


def memory_of(program: Compiled, chip: str) -> dict[str, int]:
    """Return the memory that a program uses on a chip, in MiB. Raises `AssertionError` if the
    program uses more memory than the chip has.
    """
    report, memory = program.memory_analysis(), CHIPS[chip].memory
    used = (
        report.argument_size_in_bytes
        + report.output_size_in_bytes
        + report.temp_size_in_bytes
        - report.alias_size_in_bytes
    )
    assert used <= memory, f"the program uses {used} bytes, but a chip has {memory}"
    sizes = {
        "arguments": report.argument_size_in_bytes,
        "temporary": report.temp_size_in_bytes,
        "in_place": report.alias_size_in_bytes,
        "memory": memory,
    }
    return {f"{name}_mib": num_bytes >> 20 for name, num_bytes in sizes.items()}


def keep(result: dict[str, Any]) -> None:
    """Add a result to the results file. It replaces an earlier result of the same case and chip."""
    kept = json.loads(OUTCOME.read_text(encoding="utf-8"))["results"] if OUTCOME.exists() else []
    results = {(item["chip"], item["case"]): item for item in [*kept, result]}
    names = [*(case.name for case in CASES), SAMPLER]
    compiled_for = [chip for chip in CHIPS if all((chip, name) in results for name in names)]
    versions = {name: version(name) for name in ("jax", "libtpu")}
    ordered = [results[chip, name] for chip in CHIPS for name in names if (chip, name) in results]
    record = {
        "backend": "tpu",
        "compiled_for": compiled_for,
        "versions": versions,
        "results": ordered,
    }
    OUTCOME.parent.mkdir(parents=True, exist_ok=True)
    OUTCOME.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chip", choices=tuple(CHIPS), action="append", help="default: all")
    parser.add_argument("--case", default="", help="only cases whose names contain this")
    arguments = parser.parse_args()
    compilers: dict[str, Callable[[str, Mesh], dict[str, Any]]] = {
        case.name: partial(compile_case, case) for case in CASES
    }
    compilers[SAMPLER] = compile_sampler
    todo = [
        (chip, name)
        for chip in arguments.chip or CHIPS
        for name in compilers
        if arguments.case in name
    ]
    if len(todo) == len(CHIPS) * len(compilers):
        # After a complete run, the file contains only results of the current code.
        OUTCOME.unlink(missing_ok=True)
    for number, (chip, name) in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] {name} for {chip} ", end="", flush=True)
        began = time.perf_counter()
        topology = topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[chip].topology)
        result = compilers[name](chip, mesh_of(topology.devices))
        keep(result)
        sizes = ", ".join(
            f"{name} {value}" for name, value in result.items() if name.endswith("_mib")
        )
        print(f"took {time.perf_counter() - began:.0f} s: {sizes}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
