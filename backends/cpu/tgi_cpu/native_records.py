"""The `ctypes` definitions of the C structs in `native/program.h` and `native/sampler.h`."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

import numpy as np

__all__ = [
    "BLOCK_TOKENS",
    "LIBRARY_VERSION",
    "OUTLIER",
    "PANEL_COLUMNS",
    "RECORD_BYTES",
    "SAMPLE_RESULT",
    "SAMPLE_ROW",
    "TOP_TOKEN",
    "AttentionRecord",
    "BatchRecord",
    "CompressedRecord",
    "OpRecord",
    "QuantizedRecord",
    "round_up",
]

LIBRARY_VERSION = 2
"""The value of `tgi_version` in a library that was built from the same sources."""

PANEL_COLUMNS = 32
BLOCK_TOKENS = 32


class AttentionRecord(Structure):
    """Has the same fields as `tgi::AttentionLayer`."""

    _fields_ = (
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("rotary_dim", c_int32),
        ("interleaved", c_int32),
        ("window", c_int32),
        ("qk_norm_kind", c_int32),
        ("cache_format", c_int32),
        ("scale", c_float),
        ("softcap", c_float),
        ("qk_norm_epsilon", c_float),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("slopes", c_void_p),
        ("sinks", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("key_codes", c_void_p),
        ("value_codes", c_void_p),
        ("key_table", c_void_p),
        ("value_table", c_void_p),
        ("key_factor", c_float),
        ("value_factor", c_float),
    )


class QuantizedRecord(Structure):
    """Has the same fields as `tgi::QuantizedWeight`."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("input_order", c_void_p),
        ("positions", c_void_p),
        ("numbers", c_void_p),
        ("column_scales", c_void_p),
        ("bits", c_int32),
        ("group_size", c_int32),
        ("code_kind", c_int32),
        ("scale_kind", c_int32),
        ("zero_kind", c_int32),
        ("zero", c_int32),
    )


class CompressedRecord(Structure):
    """Has the same fields as `tgi::CompressedWeight`."""

    _fields_ = (
        ("panels", c_void_p),
        ("outliers", c_void_p),
        ("outlier_starts", c_void_p),
    )


class OpRecord(Structure):
    """Has the same fields as `tgi::Op`."""

    _fields_ = (
        ("kind", c_int32),
        ("store", c_int32),
        ("activation", c_int32),
        ("norm_kind", c_int32),
        ("num_columns", c_int64),
        ("num_inputs", c_int64),
        ("num_ids", c_int64),
        ("num_positions", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("source", c_void_p),
        ("target", c_void_p),
        ("attention", POINTER(AttentionRecord)),
        ("positions", c_void_p),
        ("scale", c_float),
        ("epsilon", c_float),
        ("position_offset", c_int32),
        ("target_is_float", c_int32),
        ("quantized", POINTER(QuantizedRecord)),
        ("compressed", POINTER(CompressedRecord)),
    )


class BatchRecord(Structure):
    """Has the same fields as `tgi::Batch`."""

    _fields_ = (
        ("num_tokens", c_int64),
        ("num_rows", c_int64),
        ("max_blocks", c_int64),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("query_starts", c_void_p),
        ("context_lens", c_void_p),
        ("block_tables", c_void_p),
    )


OUTLIER = np.dtype([("input", np.int32), ("column", np.uint16), ("value", np.uint16)])
"""Has the same fields as `tgi::Outlier`."""
SAMPLE_ROW = np.dtype(
    [
        ("watermark_delta", np.float64),
        ("watermark_limit", np.uint64),
        ("bias_ids", np.uint64),
        ("biases", np.uint64),
        ("num_biases", np.int64),
        ("context", np.uint64),
        ("context_length", np.int64),
        ("num_prompt_tokens", np.int64),
        ("repetition_penalty", np.float64),
        ("relative_frequency_penalty", np.float64),
        ("frequency_penalty", np.float64),
        ("presence_penalty", np.float64),
        ("mask", np.uint64),
        ("temperature", np.float64),
        ("top_k", np.int64),
        ("top_p", np.float64),
        ("typical_p", np.float64),
        ("min_p", np.float64),
        ("draw", np.float32),
        ("greedy", np.int32),
        ("has_penalties", np.int32),
        ("logprobs", np.int32),
        ("top_n", np.int32),
        ("unused", np.int32),
    ],
    align=True,
)
"""Has the same fields as `tgi::SampleRow`. Pointers are stored as unsigned integers."""
SAMPLE_RESULT = np.dtype(
    [("token", np.int32), ("problem", np.int32), ("logprob", np.float32), ("num_tops", np.int32)],
    align=True,
)
"""Has the same fields as `tgi::SampleResult`."""
TOP_TOKEN = np.dtype([("logprob", np.float32), ("id", np.int32)], align=True)
"""Has the same fields as `tgi::TopToken`."""
# The order is the order of the record numbers of `tgi_record_size`.
RECORD_BYTES = (
    *(
        ctypes.sizeof(record)
        for record in (OpRecord, BatchRecord, AttentionRecord, QuantizedRecord, CompressedRecord)
    ),
    *(record.itemsize for record in (SAMPLE_ROW, SAMPLE_RESULT, TOP_TOKEN)),
)


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is not less than `value`."""
    return -(-value // multiple) * multiple
