"""The native kernels, compared with the shared decoder in float32 and bfloat16.

The cache is full of NaN before it is written.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.backends.checkpoints import VARIANTS, save_checkpoint
from tests.backends.paged_batch import metadata_of
from tgi.architectures import ModelSpec, load_spec
from tgi.backend import EngineConfig, Limits
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi_cpu import worker
from tgi_cpu.native import NativeLibrary, load_library
from tgi_cpu.native_decoder import NativeDecoder, NativeModel, native_loader
from tgi_cpu.native_records import BLOCK_TOKENS
from tgi_cpu.native_support import unsupported
from tgi_torch.model.decoder import DecoderWithCache, build_decoder
from tgi_torch.model.protocols import Model
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights

LIMITS = Limits(max_total_tokens=320, max_sequences=8, max_step_tokens=700)
NUM_BLOCKS = 40
NAN = 0x7FC0  # bfloat16

LONGER = {
    "gpt2": {"n_positions": 320},
    "gpt_bigcode": {"n_positions": 320},
    "gpt_neo": {"max_position_embeddings": 320},
    "opt": {"max_position_embeddings": 320},
    "xglm": {"max_position_embeddings": 320},
}

# Families and variants with a mixture, clipping, a norm in another place, an activation with
# parameters, a query scale, or a rotary embedding that depends on the length of the sequence.
NOT_NATIVE = {
    "apertus",
    "bloom-residual-from-norm",
    "cohere-norms",
    "cohere2_moe",
    "dbrx",
    "ernie4_5_moe",
    "exaone4",
    "exaone_moe",
    "glm4_moe",
    "gpt_oss",
    "granitemoe",
    "granitemoehybrid-experts",
    "granitemoeshared",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "internlm3",
    "llama-dynamic",
    "ministral3",
    "mixtral",
    "mpt-clipped",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "opt-350m",
    "persimmon",
    "phi-norms",
    "phi3-long",
    "phi3-longer",
    "phi3-mini-4",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
    "solar_open",
    "stablelm-norms",
}

# Variants of these families without the part that is not supported.
NATIVE_VARIANTS = {"internlm3-biases", "olmo-biases", "persimmon-plain"}

HEAD_SIZES = [64, 80, 96, 128, 256]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def ignore(done: int, total: int) -> None:
    """Ignore the progress."""


def native_model(
    path: Path, spec: ModelSpec, library: NativeLibrary, threads: int = 2, limits: Limits = LIMITS
) -> NativeModel:
    loaded = native_loader(library, threads)(spec, torch.bfloat16, path, ignore)
    assert isinstance(loaded, NativeDecoder)
    model = loaded.with_cache(NUM_BLOCKS, BLOCK_TOKENS, limits)
    for side in (*model._cache.keys, *model._cache.values):
        side[...] = NAN
    return model


def torch_model(
    path: Path, spec: ModelSpec, dtype: torch.dtype, limits: Limits = LIMITS
) -> DecoderWithCache:
    """The shared decoder with weights rounded to bfloat16, computing in `dtype`."""
    decoder = build_decoder(spec, REFERENCE, dtype, "cpu")
    load_weights(decoder, path, ignore)
    for parameter in decoder.parameters.by_parameter.values():
        parameter.copy_(parameter.bfloat16())
    return decoder.with_cache(NUM_BLOCKS, BLOCK_TOKENS, limits)


def schedule(rng: random.Random) -> list[list[tuple[int, int, int]]]:
    """Draw steps of (sequence, first position, count).

    They contain prefill chunks, decode rows, block boundaries and one long prompt.
    """
    done = [0, 0, 0]
    steps = []
    for counts in ([50, 33, 0], [13, 1, 70], [1, 1, 1], [31, 2, 1], [1, 1, 200], [1, 1, 1]):
        rows = [(i, done[i], count) for i, count in enumerate(counts) if count]
        rng.shuffle(rows)
        steps.append(rows)
        done = [start + count for start, count in zip(done, counts, strict=True)]
    return steps


def logits_of(model: Model, seed: int = 0) -> Tensor:
    """Compute the logits of all positions of the schedule, in order."""
    rng = random.Random(seed)
    token_ids = [[rng.randrange(101) for _ in range(320)] for _ in range(3)]
    blocks = rng.sample(range(NUM_BLOCKS), 30)
    tables = [blocks[:10], blocks[10:20], blocks[20:]]
    results = []
    for rows in schedule(rng):
        flat = torch.tensor(
            [token for i, start, count in rows for token in token_ids[i][start : start + count]]
        )
        metadata = metadata_of(
            [(tables[i], start, count) for i, start, count in rows], BLOCK_TOKENS
        )
        results.append(model.logits(model.forward(flat, metadata).clone()).clone())
    return torch.cat(results)


def check(path: Path, library: NativeLibrary) -> None:
    """Assert that the native error is similar to that of torch in bfloat16."""
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    reference = logits_of(torch_model(path, spec, torch.float32))
    usual = (logits_of(torch_model(path, spec, torch.bfloat16)) - reference).abs()
    native = (logits_of(native_model(path, spec, library)) - reference).abs()
    assert native.max() <= 1.5 * usual.max()
    assert native.mean() <= 1.1 * usual.mean()


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_families(variant: str, library: NativeLibrary, tmp_path: Path) -> None:
    family, overrides = VARIANTS[variant]
    # The table of learned positions must be long enough for the schedule.
    save_checkpoint(family, tmp_path, **overrides, **LONGER.get(family, {}))
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    if variant in NOT_NATIVE or (family in NOT_NATIVE and variant not in NATIVE_VARIANTS):
        assert unsupported(spec)
        return
    assert unsupported(spec) == ()
    check(tmp_path, library)


@pytest.mark.parametrize("head_dim", HEAD_SIZES)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
def test_head_and_group_sizes(
    head_dim: int, num_kv_heads: int, library: NativeLibrary, tmp_path: Path
) -> None:
    sizes = {
        "head_dim": head_dim,
        "num_attention_heads": 6,
        "num_key_value_heads": num_kv_heads,
        "hidden_size": 48,
    }
    save_checkpoint(
        "mistral",
        tmp_path,
        num_hidden_layers=1,
        sliding_window=45,
        max_position_embeddings=320,
        **sizes,
    )
    check(tmp_path, library)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "falcon", "gemma2", "opt"])
def test_wanted_tokens_equal_those_of_the_whole_batch(
    family: str, library: NativeLibrary, tmp_path: Path
) -> None:
    """After the last cache write only wanted tokens are computed, with bit-identical results."""
    save_checkpoint(family, tmp_path, **LONGER.get(family, {}))
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    model = native_model(tmp_path, spec, library)
    for rows, wanted in (
        ([([3, 1], 0, 40), ([5], 0, 7), ([2, 7], 0, 33)], [0, 39, 46, 47, 79]),
        ([([3, 1], 40, 1), ([5, 9], 7, 30)], [30]),
        ([([2, 7], 33, 5)], []),
    ):
        num_tokens = sum(count for _, _, count in rows)
        token_ids, metadata = torch.arange(num_tokens) % 101, metadata_of(rows, BLOCK_TOKENS)
        whole = model.forward(token_ids, metadata).clone()
        found = model.forward(token_ids, metadata, torch.tensor(wanted, dtype=torch.int64))
        assert torch.equal(found, whole[wanted])


def test_one_thread_and_three_compute_the_same(library: NativeLibrary, tmp_path: Path) -> None:
    save_checkpoint("llama", tmp_path)
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    one, three = (logits_of(native_model(tmp_path, spec, library, threads)) for threads in (1, 3))
    assert torch.equal(one, three)


LONG = Limits(max_total_tokens=700, max_sequences=8, max_step_tokens=700)
SHARED_BLOCKS = 18  # two segments of keys, and part of a third

LONG_CONTEXTS = {
    "llama": {"max_position_embeddings": 700},
    "mistral": {"max_position_embeddings": 700, "sliding_window": 300},
    "gemma2": {"max_position_embeddings": 700},
    "bloom": {},
}


def long_prompts() -> tuple[list[list[int]], list[list[int]]]:
    """Tokens and blocks of four sequences.

    Three begin with the same tokens in the same blocks. The fourth begins differently.
    """
    rng = random.Random(0)
    begin = [rng.randrange(101) for _ in range(SHARED_BLOCKS * BLOCK_TOKENS)]
    tokens = [begin + [rng.randrange(101) for _ in range(100)] for _ in range(3)] + [
        [rng.randrange(101) for _ in range(310)]
    ]
    blocks = rng.sample(range(NUM_BLOCKS), SHARED_BLOCKS + 3 * 3 + 10)
    tables = [
        blocks[:SHARED_BLOCKS] + blocks[first : first + 3]
        for first in range(SHARED_BLOCKS, SHARED_BLOCKS + 9, 3)
    ]
    return tokens, [*tables, blocks[-10:]]


def next_logits(model: Model, rows: list[tuple[int, int, int]]) -> Tensor:
    """Compute the logits of a step with rows (sequence, first position, count)."""
    tokens, tables = long_prompts()
    flat = torch.tensor(
        [token for i, start, count in rows for token in tokens[i][start : start + count]]
    )
    metadata = metadata_of([(tables[i], start, count) for i, start, count in rows], BLOCK_TOKENS)
    return model.logits(model.forward(flat, metadata).clone()).clone()


def decode_after_prefill(model: Model) -> tuple[Tensor, list[Tensor]]:
    """Run a step of single tokens and of several tokens to verify, after the prompts.

    Then run each of its rows alone.
    """
    next_logits(model, [(0, 0, 640)])
    for rows in ([(1, 576, 64), (2, 576, 64)], [(3, 0, 300)]):
        next_logits(model, rows)
    rows = [(0, 640, 1), (1, 640, 1), (2, 640, 1), (3, 300, 3)]
    return next_logits(model, rows), [next_logits(model, [row]) for row in rows]


@pytest.mark.parametrize("family", LONG_CONTEXTS)
def test_long_contexts_and_common_prefixes(
    family: str, library: NativeLibrary, tmp_path: Path
) -> None:
    """The error is similar to that of torch in bfloat16.

    Other rows and the number of threads do not change a bit of a result.
    """
    save_checkpoint(family, tmp_path, **LONG_CONTEXTS[family])
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    reference, _ = decode_after_prefill(torch_model(tmp_path, spec, torch.float32, LONG))
    usual, _ = decode_after_prefill(torch_model(tmp_path, spec, torch.bfloat16, LONG))
    together, alone = decode_after_prefill(native_model(tmp_path, spec, library, 1, LONG))
    by_three, _ = decode_after_prefill(native_model(tmp_path, spec, library, 3, LONG))
    assert (together - reference).abs().max() <= 1.5 * (usual - reference).abs().max()
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, by_three)


@pytest.mark.parametrize(
    "parameter", ["q.weight", "o.weight", "gate.weight", "down.weight", "norm.weight"]
)
def test_a_lost_weight_is_detected(parameter: str, library: NativeLibrary, tmp_path: Path) -> None:
    save_checkpoint("llama", tmp_path)
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    reference = logits_of(torch_model(tmp_path, spec, torch.float32))
    decoder = NativeDecoder(spec, library, 1)

    class Losing:
        def __init__(self) -> None:
            self.spec = spec

        def write(
            self, parameter_given: str, expert: int | None, *, axis: int, start: int, piece: Tensor
        ) -> None:
            lost = parameter_given.startswith("decoder.layers.1.") and parameter_given.endswith(
                parameter
            )
            decoder.write(
                parameter_given, expert, axis=axis, start=start, piece=piece * 0 if lost else piece
            )

    load_weights(Losing(), tmp_path, ignore)
    assert (
        logits_of(decoder.with_cache(NUM_BLOCKS, BLOCK_TOKENS, LIMITS)) - reference
    ).abs().max() > 0.3


def test_blocks_are_copied_whole(library: NativeLibrary, tmp_path: Path) -> None:
    save_checkpoint("llama", tmp_path)
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    model = native_model(tmp_path, spec, library)
    prompt = torch.arange(64) % 101

    def next_logits(table: list[int]) -> Tensor:
        return model.logits(
            model.forward(torch.tensor([7]), metadata_of([(table, 64, 1)], BLOCK_TOKENS))
        ).clone()

    model.forward(prompt, metadata_of([([3, 4, 5], 0, 64)], BLOCK_TOKENS))
    expected = next_logits([3, 4, 5])
    model.copy_blocks(torch.tensor([3, 4]), torch.tensor([8, 9]))
    assert torch.equal(next_logits([8, 9, 10]), expected)


def test_many_runs_with_many_threads(library: NativeLibrary, tmp_path: Path) -> None:
    """With more threads than processors, some threads are late in every run.

    They must neither lose a share nor take one twice.
    """
    save_checkpoint("llama", tmp_path)
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    model = native_model(tmp_path, spec, library, threads=6)
    metadata = metadata_of([([1], 0, 20)], BLOCK_TOKENS)
    expected = model.forward(torch.arange(20), metadata).clone()
    for _ in range(200):
        assert torch.equal(model.forward(torch.arange(20), metadata), expected)


def test_packing_any_shape(library: NativeLibrary) -> None:
    """Each column is stored in its panel. Pieces may be divided by columns or by inputs."""
    rng = np.random.default_rng(0)
    for columns, inputs in ((1, 2), (33, 7), (64, 10), (100, 31)):
        weight = rng.integers(0, 2**16, (columns, inputs), dtype=np.uint16)
        panels = np.zeros((-(-columns // 32), -(-inputs // 2), 32, 2), np.uint16)
        half = inputs // 2 // 2 * 2
        for start, stop in ((0, half), (half, inputs)):
            piece = np.ascontiguousarray(weight[:, start:stop])
            library.pack(piece, panels.reshape(-1), inputs, first_column=0, first_input=start)
        unpacked = panels.transpose(0, 2, 1, 3).reshape(panels.shape[0] * 32, -1)[:columns, :inputs]
        np.testing.assert_array_equal(unpacked, weight)


def test_a_missing_library_is_reported(tmp_path: Path) -> None:
    assert load_library(tmp_path) is None
    save_checkpoint("llama", tmp_path)
    config = EngineConfig("cpu", str(tmp_path), load_spec(tmp_path))
    assert "install a C++ compiler" in worker.unsupported_reason(config, None)


def test_float32_runs_in_torch_with_a_reason(library: NativeLibrary, tmp_path: Path) -> None:
    save_checkpoint("llama", tmp_path)
    reporter = RecordingReporter()
    config = EngineConfig("cpu", str(tmp_path), load_spec(tmp_path), dtype="float32")
    worker.create_worker(config, reporter)
    assert any("they compute in bfloat16, not float32" in line for line in reporter.lines)
