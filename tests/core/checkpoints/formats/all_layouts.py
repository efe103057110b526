"""The table of all layouts, for tests that check each of them."""

from tests.core.checkpoints.formats import byte_layouts, layouts

LAYOUTS = {
    "packed int4": layouts.packed_integers,
    "packed int8": lambda: layouts.packed_integers(8),
    "packed int2": lambda: layouts.packed_integers(2),
    "packed int4 with zeros": lambda: layouts.packed_integers(symmetric=False),
    "packed int8 with zeros": lambda: layouts.packed_integers(8, symmetric=False),
    "packed int4 with order": lambda: layouts.packed_integers(order=True),
    "packed int4 with zeros and order": lambda: layouts.packed_integers(
        symmetric=False, order=True
    ),
    "packed int4 per output": lambda: layouts.packed_integers(group=32),
    "int8 per output": layouts.int8_per_output,
    "int8 per output with zeros": lambda: layouts.int8_per_output(symmetric=False),
    "compressed fp8 per tensor": lambda: layouts.compressed_fp8("tensor"),
    "compressed fp8 per output": lambda: layouts.compressed_fp8("channel"),
    "compressed fp8 blocks": lambda: layouts.compressed_fp8("block", (4, 3)),
    "nvfp4": layouts.nvfp4,
    "fp8 blocks": layouts.fp8_blocks,
    "fp8 static": layouts.fp8_static,
    "fbgemm experts": layouts.fbgemm_experts,
    "mxfp4 experts": layouts.mxfp4_experts,
    "eetq": layouts.eetq_int8,
    "exl2": layouts.exl2_mixed,
    "exl2 with a long last group": lambda: layouts.exl2_mixed((32, 32, 96), (4, 4, 8)),
    "exl2 with one group": lambda: layouts.exl2_mixed((40,), (4,)),
    "torchao int4": layouts.torchao_int4,
    "bitsandbytes int8": layouts.bitsandbytes_int8,
    "nf4": byte_layouts.bitsandbytes_4bit,
    "fp4": lambda: byte_layouts.bitsandbytes_4bit("fp4"),
    "nf4 with double quantization": lambda: byte_layouts.bitsandbytes_4bit(nested=True),
    "nf4 whose blocks cross rows": lambda: byte_layouts.bitsandbytes_4bit(shape=(6, 48)),
    "nf4 with odd rows": lambda: byte_layouts.bitsandbytes_4bit(shape=(5, 9), nested=True),
    "compressed mxfp4": lambda: byte_layouts.compressed_mx(4),
    "compressed mxfp8": lambda: byte_layouts.compressed_mx(8),
    "torchao int8": byte_layouts.torchao_int8,
    "torchao int8 in groups": lambda: byte_layouts.torchao_int8(3, zeros=True),
    "torchao fp8": byte_layouts.torchao_fp8,
}
"""Maps the name of each layout to the function that writes it."""
