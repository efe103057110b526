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

_ATTENTION = {
    "KV_HEADS": 8,
    "BLOCK_SIZE": 16,
    "CACHE_KIND": 0,
    "HAS_WINDOW": False,
    "HAS_SOFTCAP": False,
    "HAS_SLOPES": False,
    "HAS_SINKS": False,
    "SHARED_VALUES": False,
}
_HEAD_128 = {"HEAD_DIM": 128, "VALUE_DIM": 128, "BLOCK_D": 128, "BLOCK_REST": 16, "BLOCK_V": 128}
_DECODE = {"GROUP": 4, "NUM_PARTS": 8}
_PREFILL = {"GROUP": 4, "NUM_PARTS": 1}
_ALL_FEATURES = dict.fromkeys(("HAS_WINDOW", "HAS_SOFTCAP", "HAS_SLOPES", "HAS_SINKS"), True)
_LATENT = {
    "KV_HEADS": 1,
    "GROUP": 16,
    "HEAD_DIM": 576,
    "VALUE_DIM": 512,
    "BLOCK_D": 512,
    "BLOCK_REST": 64,
    "BLOCK_V": 512,
    "SHARED_VALUES": True,
}

_PRODUCT = {
    "LINES_PER_TOKEN": 1,
    "WEIGHT_KIND": 4,
    "HAS_TABLE": False,
    "HAS_ZEROS": False,
    "HAS_OFFSETS": False,
    "HAS_BIAS": False,
    "HAS_EXPERTS": False,
    "GROUP": 128,
    "NUM_GROUPS": 32,
    "NUM_PARTS": 4,
}

# Name: the kernel, its compile-time values, and the number of warps. The tile sizes and warps of
# attention depend on the target.
KERNELS = {
    "decode": (attention.attend, _ATTENTION | _HEAD_128 | _DECODE, 4),
    "decode-all": (attention.attend, _ATTENTION | _HEAD_128 | _DECODE | _ALL_FEATURES, 4),
    "decode-fp8": (attention.attend, _ATTENTION | _HEAD_128 | _DECODE | {"CACHE_KIND": 1}, 4),
    "decode-latent": (attention.attend, _ATTENTION | _DECODE | _LATENT, 8),
    "prefill": (attention.attend, _ATTENTION | _HEAD_128 | _PREFILL, 4),
    "product-int4": (linear.multiply, _PRODUCT | {"HAS_ZEROS": True}, 4),
    "product-int8": (linear.multiply, _PRODUCT | {"WEIGHT_KIND": 3}, 4),
    "product-nf4": (linear.multiply, _PRODUCT | {"HAS_TABLE": True, "GROUP": 64}, 4),
    "product-e4m3": (linear.multiply, _PRODUCT | {"WEIGHT_KIND": 1}, 4),
    "product-small-groups": (
        linear.multiply,
        _PRODUCT | {"HAS_OFFSETS": True, "GROUP": 32, "NUM_GROUPS": 128},
        4,
    ),
    "product-many-rows": (linear.multiply, _PRODUCT | {"NUM_PARTS": 1}, 4),
    "product-experts": (
        linear.multiply,
        _PRODUCT | {"WEIGHT_KIND": 0, "HAS_EXPERTS": True, "NUM_PARTS": 1},
        4,
    ),
    "add_parts": (linear.add_parts, {"NUM_PARTS": 4, "BLOCK": 1024}, 4),
    "merge": (
        attention.merge_parts,
        {"NUM_HEADS": 32, "VALUE_DIM": 128, "NUM_PARTS": 8, "BLOCK_PARTS": 8, "BLOCK_V": 128},
        4,
    ),
    "rms_norm": (
        elementwise.rms_norm,
        {"SIZE": 4096, "BLOCK": 4096, "UNIT_OFFSET": False},
        8,
    ),
    "layer_norm": (
        elementwise.layer_norm,
        {"SIZE": 4096, "BLOCK": 4096, "HAS_WEIGHT": True, "HAS_BIAS": True},
        8,
    ),
    "rotate": (
        elementwise.rotate,
        {"HALF": 64, "BLOCK": 64, "BLOCK_HEADS": 8, "INTERLEAVED": False},
        4,
    ),
    "activate": (elementwise.activate, {"KIND": "gelu", "BLOCK": 1024}, 4),
    "activate_gated": (elementwise.activate_gated, {"KIND": "silu", "BLOCK": 1024}, 4),
    "write_kv": (
        elementwise.write_kv,
        {"SIZE": 128, "NUM_HEADS": 8, "BLOCK": 128, "CACHE_KIND": 0},
        1,
    ),
    "write_kv-fp8": (
        elementwise.write_kv,
        {"SIZE": 128, "NUM_HEADS": 8, "BLOCK": 128, "CACHE_KIND": 2},
        1,
    ),
}

_FLOATS = {"scale", "softcap", "key_scale", "value_scale", "eps", "inverse_scale", "zero"}
_INTEGERS = {"table_stride", "window", "row_stride", "token_stride", "head_stride", "num_heads"}
_INTEGERS |= {"count", "size", "num_lines", "num_columns", "num_inputs"}
_INDICES = {"block_tables", "context_lens", "query_starts", "tile_rows", "tile_starts", "tokens"}
_INDICES |= {"lines_of_tiles", "expert_of_tile"}
_WIDE = {"sums", "slopes", "sinks", "cos", "sin", "parts", "table"}


def signature_of(kernel, values, dtype):
    """The types of the arguments of a kernel for activations in `dtype`."""
    types = {}
    for name in kernel.arg_names:
        if name in values or name == "DOT_DTYPE":
            types[name] = "constexpr"
        elif name in _FLOATS:
            types[name] = "fp32"
        elif name in _INTEGERS:
            types[name] = "i32"
        elif name in _INDICES:
            types[name] = "*i32"
        elif name == "slots":
            types[name] = "*i64"
        elif name == "zeros" or (name == "weight" and values.get("WEIGHT_KIND")):
            types[name] = "*u8"
        elif name == "scales":
            types[name] = "*fp16"
        elif name in _WIDE or (
            name == "out" and values.get("NUM_PARTS", 1) > 1 and "GROUP" in values
        ):
            types[name] = "*fp32"
        elif name in {"keys", "values", "target"} and values.get("CACHE_KIND"):
            types[name] = "*u8"
        else:
            types[name] = f"*{dtype}"
    return types


def target_of(name):
    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name.removeprefix("sm_")), 32)
    return GPUTarget("hip", name, 32 if name.startswith(AMD_WAVES_OF_32) else 64)


def facts_of(kernel_name, target_name, dtype):
    """Compile one kernel. Returns the facts."""
    kernel, values, num_warps = KERNELS[kernel_name]
    num_stages = 2
    target = target_of(target_name)
    if kernel is attention.attend:
        config = attention_config(
            kind_of(target.backend, target.arch),
            is_decode=values["NUM_PARTS"] > 1,
            head_dim=values["HEAD_DIM"],
        )
        num_warps, num_stages = config.num_warps, config.num_stages
        values = values | {
            "BLOCK_TOKENS": config.query_tokens,
            "BLOCK_M": max(16, config.query_tokens * values["GROUP"]),
            "BLOCK_N": config.keys,
        }
    dot = {"fp16": tl.float16, "bf16": tl.bfloat16}[dtype]
    if kernel is linear.multiply:
        kind = kind_of(target.backend, target.arch)
        config = product_config(kind, is_large=values["NUM_PARTS"] == 1)
        num_warps, num_stages = config.num_warps, 3
        blocks = {"BLOCK_M": config.rows, "BLOCK_N": config.outputs, "BLOCK_K": config.inputs}
        values = values | blocks
    constants = values | ({"DOT_DTYPE": dot} if "DOT_DTYPE" in kernel.arg_names else {})
    signature = signature_of(kernel, values, dtype)
    # As at a launch: the addresses of tensors, and most sizes, are multiples of 16.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(signature.values())
        if kind.startswith("*") or kind == "i32"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": num_warps, "num_stages": num_stages}
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
