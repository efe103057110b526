r"""Writes small quantized checkpoints with the packages that define the formats, for tests.

Install the packages into a separate environment, because they are not dependencies of this project:

    pip install --no-deps --target DIR compressed-tensors==0.20.1 bitsandbytes==0.50.2 \
        torchao==0.18.0 loguru
    PYTHONPATH=DIR python -m tools.quantized_goldens

Each file contains the tensors of one module `layer`, the weights that the package computes from
them (`expected`, float32), and the settings of `quantization_config` in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from bitsandbytes import functional
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    MappingType,
    PerGroup,
    quantize_,
)

GOLDEN = Path(__file__).parents[1] / "tests" / "core" / "checkpoints" / "formats" / "golden"
OUTPUTS, INPUTS = 16, 64

Tensors = dict[str, torch.Tensor]
Sample = tuple[str, dict[str, object], Tensors, torch.Tensor]


def weight(seed: int, outputs: int = OUTPUTS, inputs: int = INPUTS) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) / 8


def compressed_samples() -> Iterator[Sample]:
    group = {"strategy": "group", "group_size": 16}
    channel = {"strategy": "channel"}
    cases = {
        "pack-quantized": [
            ("int4", {"num_bits": 4, "type": "int", **group}),
            ("int4_zeros", {"num_bits": 4, "type": "int", "symmetric": False, **group}),
            ("int8_zeros", {"num_bits": 8, "type": "int", "symmetric": False, **group}),
        ],
        "int-quantized": [("int8", {"num_bits": 8, "type": "int", **channel})],
        "float-quantized": [
            ("fp8_output", {"num_bits": 8, "type": "float", **channel}),
            ("fp8_tensor", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
            (
                "fp8_block",
                {
                    "num_bits": 8,
                    "type": "float",
                    "strategy": "block",
                    "block_structure": [3, 24],
                },
            ),
        ],
        "nvfp4-pack-quantized": [
            (
                "nvfp4",
                {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
            )
        ],
        "mxfp4-pack-quantized": [
            ("mxfp4", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32})
        ],
    }
    for seed, (layout, samples) in enumerate(cases.items()):
        for name, arguments in samples:
            yield compressed_sample(f"compressed_{name}", layout, arguments, seed)


def compressed_sample(name: str, layout: str, arguments: dict, seed: int) -> Sample:

    args = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    state = {"weight": weight(seed), **scales_of(weight(seed), arguments)}
    compressor = BaseCompressor.get_value_from_registry(layout)
    packed = compressor.compress(state, scheme)
    if layout == "nvfp4-pack-quantized":
        restored = float32_nvfp4(packed, args)
    else:
        restored = compressor.decompress(dict(packed), scheme)["weight"]
    settings = {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments}},
    }
    return name, settings, packed, restored


def float32_nvfp4(packed: Tensors, args: QuantizationArgs) -> torch.Tensor:
    """Decompress with the package's functions in float32. Its compressor computes in bfloat16."""
    return dequantize(
        unpack_fp4_from_uint8(packed["weight_packed"], OUTPUTS, INPUTS, torch.float32),
        packed["weight_scale"].float(),
        args=args,
        global_scale=packed["weight_global_scale"],
    )


def scales_of(values: torch.Tensor, arguments: dict) -> Tensors:
    """Compute scales from the largest magnitude of each group, and zeros if they are required."""
    rows, columns = {
        "tensor": (OUTPUTS, INPUTS),
        "channel": (1, INPUTS),
        "group": (1, arguments.get("group_size", 1)),
        "tensor_group": (1, arguments.get("group_size", 1)),
        "block": tuple(arguments.get("block_structure", (1, 1))),
    }[arguments["strategy"]]
    padded = torch.nn.functional.pad(values, (0, -INPUTS % columns, 0, -OUTPUTS % rows))
    blocks = padded.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
    largest = blocks.abs().amax(dim=(1, 3))
    if arguments["type"] == "float":
        return float_scales(largest, arguments)
    levels = 2 ** (arguments["num_bits"] - 1)
    if arguments.get("symmetric", True):
        return {"weight_scale": largest / (levels - 0.5)}
    low, high = blocks.amin(dim=(1, 3)), blocks.amax(dim=(1, 3))
    scale = (high - low) / (2 * levels - 1)
    zero = torch.clamp(torch.round(-low / scale) - levels, -levels, levels - 1)
    return {"weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}


def float_scales(largest: torch.Tensor, arguments: dict) -> Tensors:
    if arguments["strategy"] == "tensor_group":
        global_scale = 448.0 * 6.0 / largest.amax().reshape(1)
        scale = (largest * global_scale / 6.0).to(torch.float8_e4m3fn).float()
        return {"weight_scale": scale, "weight_global_scale": global_scale}
    if arguments["num_bits"] == 4:
        return {"weight_scale": torch.exp2(torch.ceil(torch.log2(largest / 6.0)))}
    scale = largest / 448.0
    return {"weight_scale": scale.reshape(1) if arguments["strategy"] == "tensor" else scale}


def bitsandbytes_samples() -> Iterator[Sample]:

    cases = [("nf4", False, INPUTS), ("fp4", False, INPUTS), ("nf4", True, INPUTS), ("nf4", 1, 48)]
    for kind, nested, inputs in cases:
        values = weight(7, inputs=inputs)
        packed, state = functional.quantize_4bit(
            values, blocksize=64, compress_statistics=bool(nested), quant_type=kind
        )
        tensors = {f"weight.{key}": part for key, part in state.as_dict(packed=True).items()}
        # With the shape of the matrix, the kernel for CPUs assumes that no block crosses a row.
        state.shape = torch.Size([values.numel()])
        restored = functional.dequantize_4bit(packed, state).reshape(values.shape)
        settings = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": kind,
        }
        name = f"bitsandbytes_{kind}{'_nested' * bool(nested)}_{inputs}"
        yield name, settings, {"weight": packed, **tensors}, restored
    codes, scales, _ = functional.int8_vectorwise_quant(weight(8).half())
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    tensors = {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    yield (
        "bitsandbytes_int8",
        settings,
        tensors,
        functional.int8_vectorwise_dequant(codes, scales),
    )


def torchao_samples() -> Iterator[Sample]:

    configs = {
        "int8": Int8WeightOnlyConfig(version=2),
        "intx": IntxWeightOnlyConfig(
            weight_dtype=torch.int4,
            granularity=PerGroup(16),
            mapping_type=MappingType.ASYMMETRIC,
            version=2,
        ),
        "fp8": Float8WeightOnlyConfig(version=2),
    }
    for name, config in configs.items():
        model = torch.nn.Sequential()
        model.add_module("layer", torch.nn.Linear(INPUTS, OUTPUTS, bias=False))
        model.layer.weight.data = weight(9)
        quantize_(model, config)
        tensors, _ = flatten_tensor_state_dict(model.state_dict())
        local = {key.removeprefix("layer."): part for key, part in tensors.items()}
        settings = {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": type(config).__name__, "_data": {}}},
        }
        yield f"torchao_{name}", settings, local, model.layer.weight.dequantize()


SOURCES: tuple[Callable[[], Iterator[Sample]], ...] = (
    compressed_samples,
    bitsandbytes_samples,
    torchao_samples,
)


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for source in SOURCES:
        for name, settings, tensors, restored in source():
            named = {f"layer.{key}": part.detach().contiguous() for key, part in tensors.items()}
            named["expected"] = restored.detach().float().contiguous()
            path = GOLDEN / f"{name}.safetensors"
            save_file(named, path, {"settings": json.dumps(settings)})
            print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
