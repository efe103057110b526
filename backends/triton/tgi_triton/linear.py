"""Products with quantized weights, and products of a mixture of experts.

Shapes: T tokens, N outputs, K inputs, E experts, k experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from tgi.checkpoints.quantized import (
    CodeKind,
    QuantizedFormat,
    QuantizedMatrix,
    ScaleKind,
    code_values,
)
from tgi_triton.configs import current_kind, product_config
from tgi_triton.kernels.linear import (
    CODES_4,
    CODES_8,
    ProductSizes,
    TileArguments,
    WeightArguments,
    add_parts,
    multiply,
)
from tgi_triton.kernels.small_floats import FLOAT, FP8_E4M3, FP8_E5M2
from tgi_triton.launch import Kernel, dot_dtype

__all__ = ["DeviceMatrix", "ExpertTiles", "Products", "tiles_of_experts"]

_MANY_ROWS = 64  # from this number of rows on, tiles have more rows
_ADD_BLOCK = 1024
_SCALE_DTYPES = {
    ScaleKind.F16: torch.float16,
    ScaleKind.BF16: torch.bfloat16,
    ScaleKind.E8M0: torch.bfloat16,
    ScaleKind.F32: torch.float32,
}


@final
@dataclass(frozen=True)
class DeviceMatrix:
    """A matrix, or the matrices of all experts, on a device.

    `weight` contains numbers [E, N, K], one code per byte [E, N, K], or two codes per byte
    [E, N, K / 2]. `input_order` [K] gives the input of each stored position.
    """

    weight: Tensor
    kind: int
    num_inputs: int
    group: int
    scales: Tensor | None = None  # [E, N, groups]
    zeros: Tensor | None = None  # uint8 [E, N, groups]
    offsets: Tensor | None = None  # [E, N, groups]
    table: Tensor | None = None  # float32 [codes]
    zero: int = 0
    input_order: Tensor | None = None  # int64 [K]

    @property
    def num_outputs(self) -> int:
        """Number of rows of one expert's matrix."""
        return self.weight.shape[1]

    @property
    def num_bytes(self) -> int:
        """Size in bytes of codes, scales, zeros and offsets."""
        parts = (self.weight, self.scales, self.zeros, self.offsets)
        return sum(part.nbytes for part in parts if part is not None)

    def arguments(self, missing: Tensor) -> WeightArguments:
        """The arguments of the kernel. `missing` replaces absent parts."""
        return WeightArguments(
            self.weight,
            missing if self.scales is None else self.scales,
            missing if self.zeros is None else self.zeros,
            missing if self.offsets is None else self.offsets,
            missing if self.table is None else self.table,
            float(self.zero),
            self.num_outputs,
            self.num_inputs,
        )

    @classmethod
    def of_numbers(cls, weight: Tensor) -> DeviceMatrix:
        """A matrix [N, K] or [E, N, K] of floating-point numbers."""
        stacked = weight.unsqueeze(0) if weight.dim() == 2 else weight
        return cls(stacked.contiguous(), FLOAT.value, weight.shape[-1], weight.shape[-1])

    @classmethod
    def of_codes(
        cls, experts: Sequence[QuantizedMatrix], device: torch.device | str
    ) -> DeviceMatrix:
        """One quantized matrix, or one for each expert. All have the same format and, if the format
        has an input order, the same order.
        """
        first = experts[0]
        form = first.format
        num_inputs = first.shape[1]
        kind = _kind(form)
        codes = np.stack([expert.codes for expert in experts])
        if kind == CODES_4.value:
            padded = np.pad(codes, ((0, 0), (0, 0), (0, num_inputs % 2)))
            codes = np.bitwise_or(padded[..., 0::2], np.left_shift(padded[..., 1::2], 4))
        has_table = form.kind in {CodeKind.NF4, CodeKind.FP4, CodeKind.E2M1}

        def stacked(values: Sequence[np.ndarray | None], dtype: torch.dtype) -> Tensor | None:
            present = [value for value in values if value is not None]
            if not present:
                return None
            return torch.from_numpy(np.stack(present)).to(dtype).to(device)

        scale_dtype = _SCALE_DTYPES[form.scale_kind]
        order = first.input_order
        return cls(
            torch.from_numpy(codes).to(device),
            kind,
            num_inputs,
            form.group_inputs or num_inputs,
            scales=stacked([expert.scales for expert in experts], scale_dtype),
            zeros=stacked([expert.zeros for expert in experts], torch.uint8),
            offsets=stacked([expert.offsets for expert in experts], scale_dtype),
            table=torch.from_numpy(code_values(form.kind)).to(device) if has_table else None,
            zero=form.zero,
            input_order=None if order is None else torch.from_numpy(order.astype(np.int64)),
        )


def _kind(form: QuantizedFormat) -> int:
    if form.kind is CodeKind.E4M3:
        return int(FP8_E4M3.value)
    if form.kind is CodeKind.E5M2:
        return int(FP8_E5M2.value)
    return int(CODES_4.value if form.bits <= 4 else CODES_8.value)


@final
@dataclass(frozen=True)
class ExpertTiles:
    """The lines of each expert, in tiles of `block` lines. A line is a token with one of its k
    experts: line i is token i // k with its expert number i % k.

    The number of tiles depends on the sizes only, so that a captured graph can be replayed.
    """

    lines: Tensor  # int32 [tiles * block], -1 = unused
    experts: Tensor  # int32 [tiles], -1 = unused
    block: int


def tiles_of_experts(chosen: Tensor, num_experts: int) -> ExpertTiles:
    """Sort the lines by their expert. `chosen` is int64 [T, k]. Nothing is read by the host."""
    count = chosen.numel()
    block = product_config(current_kind(), is_large=count >= _MANY_ROWS * num_experts).rows
    num_tiles = min(count, num_experts) + count // block
    flat = chosen.reshape(-1)
    order = torch.argsort(flat, stable=True)
    device = chosen.device
    per_expert = torch.zeros(num_experts, dtype=torch.int64, device=device)
    per_expert.scatter_add_(0, flat, torch.ones_like(flat))
    tiles_per_expert = (per_expert + block - 1) // block
    tile_ends = tiles_per_expert.cumsum(0)
    starts = per_expert.cumsum(0) - per_expert
    sorted_experts = flat[order]
    rank = torch.arange(count, device=device) - starts[sorted_experts]
    places = (tile_ends - tiles_per_expert)[sorted_experts] * block + rank
    lines = torch.full((num_tiles * block,), -1, dtype=torch.int32, device=device)
    lines.scatter_(0, places, order.to(torch.int32))
    tiles = torch.arange(num_tiles, device=device)
    experts = torch.searchsorted(tile_ends, tiles, right=True).to(torch.int32)
    experts = torch.where(experts < num_experts, experts, -1)
    return ExpertTiles(lines, experts, block)


@final
@dataclass(frozen=True)
class Products:
    """Products with the matrices of `DeviceMatrix`.

    The inputs are divided among several programs if fewer than `wanted_programs` programs would run
    otherwise.
    """

    wanted_programs: int = 256
    multiply: Kernel = multiply
    add_parts: Kernel = add_parts

    def of_rows(self, x: Tensor, matrix: DeviceMatrix, bias: Tensor | None) -> Tensor:
        """Return x W' + b, [..., N], for x [..., K] and bias [N]. W is the only matrix of
        `matrix`.
        """
        rows = x.reshape(-1, matrix.num_inputs)
        if matrix.input_order is not None:
            rows = rows.index_select(1, matrix.input_order)
        out = self._launch(rows.contiguous(), matrix, bias, None, 1)
        return out.view(*x.shape[:-1], matrix.num_outputs)

    def of_experts(
        self,
        x: Tensor,
        matrix: DeviceMatrix,
        bias: Tensor | None,
        tiles: ExpertTiles,
        lines_per_token: int,
    ) -> Tensor:
        """Multiply each line by the matrix of its expert.

        Line i uses row i // `lines_per_token` of x [..., K]. `bias` is [E, N]. Returns [lines, N].
        """
        return self._launch(x.contiguous(), matrix, bias, tiles, lines_per_token)

    def _launch(
        self,
        x: Tensor,
        matrix: DeviceMatrix,
        bias: Tensor | None,
        tiles: ExpertTiles | None,
        lines_per_token: int,
    ) -> Tensor:
        num_lines, num_columns = x.shape[0] * lines_per_token, matrix.num_outputs
        out = x.new_empty(num_lines, num_columns)
        if not num_lines:
            return out
        lines_per_matrix = num_lines // matrix.weight.shape[0]
        config = product_config(current_kind(), is_large=lines_per_matrix >= _MANY_ROWS)
        block_m = config.rows if tiles is None else tiles.block
        num_tiles = -(-num_lines // block_m) if tiles is None else len(tiles.experts)
        num_blocks = -(-num_columns // config.outputs)
        num_parts = self._num_parts(num_tiles * num_blocks, matrix.num_inputs // config.inputs)
        target = out
        if num_parts > 1:
            target = x.new_empty(num_parts, num_lines, num_columns, dtype=torch.float32)
        sizes = ProductSizes(
            weight_kind=matrix.kind,
            has_table=matrix.table is not None,
            has_zeros=matrix.zeros is not None,
            has_offsets=matrix.offsets is not None,
            group=matrix.group,
            num_groups=-(-matrix.num_inputs // matrix.group),
            lines_per_token=lines_per_token,
            has_bias=bias is not None,
            has_experts=tiles is not None,
            num_parts=num_parts,
            block_m=block_m,
            block_n=config.outputs,
            block_k=config.inputs,
            dot_dtype=dot_dtype(x.dtype),
        )
        self.multiply[(num_tiles, num_blocks, num_parts)](
            x,
            matrix.arguments(missing=out),
            out if bias is None else bias,
            target,
            TileArguments(out, out) if tiles is None else TileArguments(tiles.lines, tiles.experts),
            num_lines,
            SIZES=sizes,
            num_warps=config.num_warps,
            num_stages=3,
        )
        if num_parts > 1:
            count = out.numel()
            grid = (-(-count // _ADD_BLOCK),)
            self.add_parts[grid](target, out, count, NUM_PARTS=num_parts, BLOCK=_ADD_BLOCK)
        return out

    def _num_parts(self, num_programs: int, num_steps: int) -> int:
        """Divide the inputs so that enough programs run, with at least four steps each."""
        wanted = -(-self.wanted_programs // num_programs)
        return max(1, min(wanted, num_steps // 4))
