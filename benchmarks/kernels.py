"""Measure the time of each operation in a step of the native CPU kernels, and compare it with the
limits of the machine.

    python benchmarks/kernels.py FOLDER

FOLDER contains a `config.json`. The weights are random, because the time does not depend on their
values. Each case first runs as a whole step, and then each group of equal operations runs alone. A
group contains the operation of every layer, so that weights are read from memory as in a step. The
fastest repeat is reported, because other programs can only increase the time. With one thread, its
processor time is reported, which excludes the time during which the thread was descheduled.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from roofline import Roofline, measure

from tgi.architectures import ModelSpec, load_spec
from tgi_cpu import machine
from tgi_cpu.native import NativeLibrary, load_library
from tgi_cpu.native_builder import Kind
from tgi_cpu.native_cache import NativeCache
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_program import NativeProgram, build_program
from tgi_cpu.native_records import BLOCK_TOKENS, BatchRecord, OpRecord
from tgi_cpu.native_weights import NativeWeights

_MAX_STEP_TOKENS = 1024
_MAX_ROWS = 64


@dataclass(frozen=True)
class Case:
    """One step. A row is the number of tokens to compute and the context length after the step.

    The first `shared` tokens of all rows are stored in the same blocks.
    """

    name: str
    rows: tuple[tuple[int, int], ...]
    shared: int = 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the step."""
        return sum(count for count, _ in self.rows)

    @property
    def num_pairs(self) -> int:
        """Number of (query, key) pairs in attention, with the causal mask applied."""
        return sum(count * context - count * (count - 1) // 2 for count, context in self.rows)

    @property
    def num_keys(self) -> int:
        """Number of distinct keys that the step reads."""
        return self.shared + sum(context - self.shared for _, context in self.rows)


CASES = (
    Case("1 user, context 192", ((1, 192),)),
    Case("1 user, context 4,096", ((1, 4096),)),
    Case("8 users, context 192", ((1, 192),) * 8),
    Case("8 users, context 1,104", ((1, 1104),) * 8),
    Case("8 users, context 1,104, 1,024 of it shared", ((1, 1104),) * 8, 1024),
    Case("32 users, context 160", ((1, 160),) * 32),
    Case("8 prompts of 64 after 1,024 shared", ((64, 1088),) * 8, 1024),
    Case("prompt of 2,048, first half", ((1024, 1024),)),
    Case("prompt of 2,048, second half", ((1024, 2048),)),
)


class Model:
    """A program with random weights and a cache that is large enough for every case."""

    def __init__(
        self, spec: ModelSpec, library: NativeLibrary, threads: int, *, is_compressed: bool
    ) -> None:
        self.spec = spec
        weights = NativeWeights(spec, library)
        generator = torch.Generator().manual_seed(0)
        for matrix in weights.matrices.values():
            for parameter, rows in matrix.plan.parameter_rows.items():
                weights.write(
                    parameter,
                    0,
                    0,
                    0.02 * torch.randn(rows, matrix.plan.num_inputs, generator=generator),
                )
        if is_compressed:
            weights.compress()
        for vector in weights.vectors.values():
            vector[...] = 1.0
        num_blocks = max(
            sum(-(-context // BLOCK_TOKENS) for _, context in case.rows) for case in CASES
        )
        cache = NativeCache.allocate(spec, num_blocks, library)
        for side in (*cache.keys, *cache.values):
            side[...] = 0x3C00
        self.program: NativeProgram = build_program(
            spec,
            weights,
            library,
            cache,
            max_tokens=_MAX_STEP_TOKENS,
            max_positions=4096,
            max_rows=_MAX_ROWS,
        )
        self.threads = threads
        self.engine = Engine(
            library, threads, len(self.program.hidden_ops), self.program.scratch_floats
        )

    def groups(self) -> dict[str, list[OpRecord]]:
        """Return the operations of all layers, grouped by kind and shape, in program order."""
        groups: dict[str, list[OpRecord]] = {}
        for op in self.program.hidden_ops:
            shape = f" {op.num_inputs} to {op.num_columns}" if op.kind == Kind.LINEAR else ""
            groups.setdefault(f"{Kind(op.kind).name.lower()}{shape}", []).append(op)
        return groups

    def run(self, ops: list[OpRecord], batch: Batch) -> None:
        """Run `ops` over `batch`."""
        self.engine.run((OpRecord * len(ops))(*ops), batch.record)


class Batch:
    """The input arrays of a case. Apart from the shared blocks, each row has its own blocks."""

    def __init__(self, case: Case) -> None:
        tables = [-(-context // BLOCK_TOKENS) for _, context in case.rows]
        self.block_tables = np.zeros((len(case.rows), max(tables)), np.int32)
        shared = case.shared // BLOCK_TOKENS
        self.block_tables[:, :shared] = np.arange(shared)
        first = shared
        for table, count in zip(self.block_tables, tables, strict=True):
            table[shared:count] = np.arange(first, first + count - shared)
            first += count - shared
        counts = np.array([count for count, _ in case.rows])
        rows = np.repeat(np.arange(len(case.rows)), counts)
        self.query_starts = np.concatenate([[0], counts.cumsum()]).astype(np.int32)
        self.context_lens = np.array([context for _, context in case.rows], np.int32)
        self.positions = (
            np.arange(case.num_tokens) - self.query_starts[rows + 1] + self.context_lens[rows]
        ).astype(np.int64)
        self.slots = (
            self.block_tables[rows, self.positions // BLOCK_TOKENS].astype(np.int64) * BLOCK_TOKENS
        )
        self.slots += self.positions % BLOCK_TOKENS
        self.token_ids = (np.arange(case.num_tokens) * 97 % 1000).astype(np.int64)
        self.record = BatchRecord(
            num_tokens=case.num_tokens,
            num_rows=len(case.rows),
            max_blocks=self.block_tables.shape[1],
            token_ids=_address(self.token_ids),
            positions=_address(self.positions),
            slots=_address(self.slots),
            query_starts=_address(self.query_starts),
            context_lens=_address(self.context_lens),
            block_tables=_address(self.block_tables),
        )


@dataclass(frozen=True)
class Measured:
    """One line of the report. A quantity that does not apply is 0."""

    name: str
    seconds: float
    flops: float = 0.0
    num_bytes: float = 0.0


def measure_case(model: Model, case: Case, repeats: int, group: str) -> Iterator[Measured]:
    """Measure the whole step, each of its groups, and the output head over the last token of each
    row.
    """
    batch = Batch(case)
    seconds_of = functools.partial(best, repeats=repeats, one_thread=model.threads == 1)
    every = list(model.program.hidden_ops)
    yield Measured("all layers", seconds_of(lambda: model.run(every, batch)))
    for name, ops in model.groups().items():
        if group not in name:
            continue
        yield Measured(
            name, seconds_of(functools.partial(model.run, ops, batch)), *work_of(ops, case)
        )
    if group not in "head":
        return
    head = list(model.program.logits_ops)
    last = BatchRecord(num_tokens=len(case.rows))
    seconds = seconds_of(lambda: model.engine.run((OpRecord * len(head))(*head), last))
    yield Measured(
        "head",
        seconds,
        2.0 * len(case.rows) * head[0].num_inputs * head[0].num_columns,
        _weight_bytes(head[0]),
    )


def work_of(ops: list[OpRecord], case: Case) -> tuple[float, float]:
    """Return the floating-point operations of matrix products or attention, and the bytes that they
    must read from memory. Returns zeros for other operations.
    """
    if ops[0].kind == Kind.LINEAR:
        return sum(2.0 * case.num_tokens * op.num_inputs * op.num_columns for op in ops), sum(
            map(_weight_bytes, ops)
        )
    if ops[0].kind == Kind.ATTENTION:
        layers = [op.attention.contents for op in ops]
        flops = sum(4.0 * layer.num_heads * layer.head_dim * case.num_pairs for layer in layers)
        return flops, sum(
            4.0 * layer.num_kv_heads * layer.head_dim * case.num_keys for layer in layers
        )
    return 0.0, 0.0


def best(work: Callable[[], object], repeats: int, *, one_thread: bool) -> float:
    """Return the seconds of the fastest run."""
    clock = time.thread_time if one_thread else time.perf_counter
    times = []
    for _ in range(repeats):
        began = clock()
        work()
        times.append(clock() - began)
    return min(times)


def line_of(measured: Measured, whole: float, limits: Roofline) -> str:
    """Format the time, the share of the step, and the rates with their share of the limits."""
    text = f"  {measured.name:<26}{1e3 * measured.seconds:9.3f} ms{measured.seconds / whole:7.1%}"
    if measured.flops:
        rate = measured.flops / measured.seconds
        text += f"{rate / 1e9:8.0f} GFLOP/s"
        if limits.flops_per_second:
            text += f" ({rate / limits.flops_per_second:4.0%})"
    if measured.num_bytes:
        rate = measured.num_bytes / measured.seconds
        text += f"{rate / 1e9:8.1f} GB/s ({rate / limits.read_bytes_per_second:4.0%})"
    return text


def _weight_bytes(op: OpRecord) -> float:
    return 2.0 * op.num_inputs * op.num_columns


def _address(array: npt.NDArray[np.int64] | npt.NDArray[np.int32]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def main() -> None:
    """Measure all cases and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=machine.num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--library", type=Path, help="folder of another build of the kernels, for comparison"
    )
    parser.add_argument(
        "--uncompressed", action="store_true", help="use 16-bit weights instead of 12-bit weights"
    )
    parser.add_argument("--case", default="", help="only cases whose names contain this")
    parser.add_argument(
        "--group", default="", help="only groups of operations whose names contain this"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec, library = load_spec(options.folder), load_library(options.library)
    if not isinstance(spec, ModelSpec) or library is None or not library.is_supported:
        raise SystemExit(f"{options.folder}: the native kernels cannot run this model here")
    limits = measure(options.threads)
    read, products = limits.read_bytes_per_second / 1e9, limits.flops_per_second / 1e9
    print(f"machine: reads {read:.1f} GB/s, computes {products:.0f} GFLOP/s in bf16")
    model = Model(spec, library, options.threads, is_compressed=not options.uncompressed)
    for case in CASES:
        if options.case not in case.name:
            continue
        print(case.name)
        results = list(measure_case(model, case, options.repeats, options.group))
        for measured in results:
            print(line_of(measured, results[0].seconds, limits))
    model.engine.close()


if __name__ == "__main__":
    main()
