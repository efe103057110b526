"""Compiles kernels for GPUs that this machine does not have, and prints facts about the result.

    python -m tests.backends.triton.compiled_kernels TARGET...

A target is `sm_80`, `gfx942`, and so on. The command runs without the interpreter, so the tests
start it as a process. It prints one JSON object per target and kernel.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tgi_triton.configs import attention_config, kind_of, product_config
from tgi_triton.kernels import attention, elementwise, linear

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
AMD_WAVES_OF_32 = ("gfx1", "gfx12")
MATRIX_INSTRUCTIONS = re.compile(r"wgmma\.mma_async|tcgen05\.mma|mma\.sync|v_s?mfma_|v_wmma_")

_DOT = {"fp16": tl.float16, "bf16": tl.bfloat16}


@dataclass(frozen=True)
class Launch:
    """A kernel with the types of its arguments and its compile-time values."""

    kernel: object
    types: dict
    constants: dict
    num_warps: int = 4
    num_stages: int = 2


def attend(kind, dtype, *, is_decode=True, **changes):
    """Attention of 4 query heads per kv head with 128 values, or with `changes`."""
    config = attention_config(kind, is_decode=is_decode, head_dim=changes.get("head_dim", 128))
    group = changes.get("group", 4)
    sizes = {
        "kv_heads": 8,
        "group": group,
        "head_dim": 128,
        "value_dim": 128,
        "block_size": 16,
        "block_tokens": config.query_tokens,
        "block_m": max(16, config.query_tokens * group),
        "block_n": config.keys,
        "block_d": 128,
        "block_rest": 16,
        "block_v": 128,
        "num_parts": 8 if is_decode else 1,
        "cache_kind": 0,
        "dot_dtype": _DOT[dtype],
        "has_window": False,
        "has_softcap": False,
        "has_slopes": False,
        "has_sinks": False,
        "shared_values": False,
    }
    sizes = attention.AttentionSizes(**(sizes | changes))
    stored = "*u8" if sizes.cache_kind else f"*{dtype}"
    types = {
        "query": f"*{dtype}",
        "cache": attention.CacheArguments(stored, stored, "fp32", "fp32", "*i32", "i32"),
        "tiles": attention.TileArguments("*i32", "*i32", "*i32", "*i32"),
        "score": attention.ScoreArguments("fp32", "fp32", "i32", "*fp32", "*fp32"),
        "out": "*fp32" if sizes.num_parts > 1 else f"*{dtype}",
        "sums": "*fp32",
    }
    return Launch(attention.attend, types, {"SIZES": sizes}, config.num_warps, config.num_stages)


def multiply(kind, dtype, *, is_large=False, **changes):
    """A product with 4-bit codes in groups of 128 of 4,096 inputs, or with `changes`."""
    config = product_config(kind, is_large=is_large)
    sizes = {
        "weight_kind": 4,
        "has_table": False,
        "has_zeros": False,
        "has_offsets": False,
        "group": 128,
        "num_groups": 32,
        "lines_per_token": 1,
        "has_bias": False,
        "has_experts": False,
        "num_parts": 1 if is_large else 4,
        "block_m": config.rows,
        "block_n": config.outputs,
        "block_k": config.inputs,
        "dot_dtype": _DOT[dtype],
    }
    sizes = linear.ProductSizes(**(sizes | changes))
    codes = "*u8" if sizes.weight_kind else f"*{dtype}"
    types = {
        "x": f"*{dtype}",
        "weight": linear.WeightArguments(
            codes, "*fp16", "*u8", f"*{dtype}", "*fp32", "fp32", "i32", "i32"
        ),
        "bias": f"*{dtype}",
        "out": "*fp32" if sizes.num_parts > 1 else f"*{dtype}",
        "tiles": linear.TileArguments("*i32", "*i32"),
        "num_lines": "i32",
    }
    return Launch(linear.multiply, types, {"SIZES": sizes}, config.num_warps, num_stages=3)


def simple(kernel, num_warps=4, types=None, **constants):
    """A kernel with the same compile-time values on every GPU. Arguments that are not in `types` or
    the tables below are tensors of the activations.
    """

    def launch(kind, dtype):
        known = _TYPES | (types or {})
        names = [name for name in kernel.arg_names if name not in constants]
        found = {name: known.get(name, f"*{dtype}") for name in names}
        return Launch(kernel, found, constants, num_warps)

    return launch


_TYPES = dict.fromkeys(("eps", "inverse_scale"), "fp32")
_TYPES |= dict.fromkeys(("row_stride", "token_stride", "head_stride", "num_heads"), "i32")
_TYPES |= dict.fromkeys(("count", "size"), "i32")
_TYPES |= dict.fromkeys(("sums", "cos", "sin", "parts"), "*fp32")
_TYPES |= {"tokens": "*i32", "slots": "*i64"}

_ALL_FEATURES = dict.fromkeys(("has_window", "has_softcap", "has_slopes", "has_sinks"), True)
_LATENT = {
    "kv_heads": 1,
    "group": 16,
    "head_dim": 576,
    "value_dim": 512,
    "block_d": 512,
    "block_rest": 64,
    "block_v": 512,
    "shared_values": True,
}
# Name: a function of the kind of GPU and the dtype of the activations.
KERNELS = {
    "decode": attend,
    "decode-all": partial(attend, **_ALL_FEATURES),
    "decode-fp8": partial(attend, cache_kind=1),
    "decode-latent": partial(attend, **_LATENT),
    "prefill": partial(attend, is_decode=False),
    "product-int4": partial(multiply, has_zeros=True),
    "product-int8": partial(multiply, weight_kind=3),
    "product-nf4": partial(multiply, has_table=True, group=64),
    "product-e4m3": partial(multiply, weight_kind=1),
    "product-small-groups": partial(multiply, has_offsets=True, group=32, num_groups=128),
    "product-many-rows": partial(multiply, is_large=True),
    "product-experts": partial(multiply, is_large=True, weight_kind=0, has_experts=True),
    "add_parts": simple(linear.add_parts, NUM_PARTS=4, BLOCK=1024),
    "merge": simple(
        attention.merge_parts,
        NUM_HEADS=32,
        VALUE_DIM=128,
        NUM_PARTS=8,
        BLOCK_PARTS=8,
        BLOCK_V=128,
    ),
    "rms_norm": simple(elementwise.rms_norm, 8, SIZE=4096, BLOCK=4096, UNIT_OFFSET=False),
    "layer_norm": simple(
        elementwise.layer_norm, 8, SIZE=4096, BLOCK=4096, HAS_WEIGHT=True, HAS_BIAS=True
    ),
    "rotate": simple(elementwise.rotate, HALF=64, BLOCK=64, BLOCK_HEADS=8, INTERLEAVED=False),
    "activate": simple(elementwise.activate, KIND="gelu", BLOCK=1024),
    "activate_gated": simple(elementwise.activate_gated, KIND="silu", BLOCK=1024),
    "write_kv": simple(elementwise.write_kv, 1, SIZE=128, NUM_HEADS=8, BLOCK=128, CACHE_KIND=0),
    "write_kv-fp8": simple(
        elementwise.write_kv, 1, {"target": "*u8"}, SIZE=128, NUM_HEADS=8, BLOCK=128, CACHE_KIND=2
    ),
}


def is_aligned(kind):
    """Whether a value is a multiple of 16, as at a launch: addresses of tensors, and most sizes."""
    return kind.startswith("*") or kind == "i32"


def alignments(types):
    """The places of aligned arguments, for the compiler."""
    hint = [["tt.divisibility", 16]]
    places = {}
    for place, kind in enumerate(types.values()):
        if isinstance(kind, str):
            places |= {(place,): hint} if is_aligned(kind) else {}
        else:
            places |= {(place, i): hint for i, own in enumerate(kind) if is_aligned(own)}
    return places


def target_of(name):
    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name.removeprefix("sm_")), 32)
    return GPUTarget("hip", name, 32 if name.startswith(AMD_WAVES_OF_32) else 64)


def facts_of(kernel_name, target_name, dtype):
    """Compile one kernel. Returns the facts."""
    target = target_of(target_name)
    launch = KERNELS[kernel_name](kind_of(target.backend, target.arch), dtype)
    source = ASTSource(
        fn=launch.kernel,
        signature=launch.types | dict.fromkeys(launch.constants, "constexpr"),
        constexprs=launch.constants,
        attrs=alignments(launch.types),
    )
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    result = triton.compile(source, target=target, options=options)
    text = result.asm.get("ptx") or result.asm["amdgcn"]
    return {
        "kernel": kernel_name,
        "target": target_name,
        "dtype": dtype,
        "shared_bytes": result.metadata.shared,
        "matrix_instructions": len(MATRIX_INSTRUCTIONS.findall(text)),
        **(_cuda_usage(result) if "cubin" in result.asm else _amd_usage(text)),
    }


def _cuda_usage(result):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    [registers], [stack] = re.findall(r"REG:(\d+)", usage), re.findall(r"STACK:(\d+)", usage)
    return {"registers": int(registers), "spilled": int(stack)}


def _amd_usage(text):
    [spills] = re.findall(r"\.vgpr_spill_count:\s*(\d+)", text)
    [registers] = re.findall(r"\.vgpr_count:\s*(\d+)", text)
    return {"registers": int(registers), "spilled": int(spills)}


def main():
    for target in sys.argv[1:]:
        for name in KERNELS:
            # bfloat16 needs matrix units of compute capability 8.0.
            print(json.dumps(facts_of(name, target, "fp16" if target == "sm_75" else "bf16")))


if __name__ == "__main__":
    main()
