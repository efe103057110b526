"""The compiled programs of a model, by name and shape.

`warmup` compiles all programs ahead of time. If a program is called with another shape, an error is
raised. Only batches with many logit biases need an additional program. This program is compiled for
the first such batch, and the compilation is reported as progress. Compiled programs are cached in a
folder that the engine provides.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec
from jax.stages import Compiled, Lowered

from tgi.architectures import ModelSpec
from tgi.backend import TOKEN_ON_DEVICE, WorkerReporter
from tgi.worker.buckets import Buckets, StepShape
from tgi_tpu.attention.cache import Cache
from tgi_tpu.attention.plan import AttentionPlan
from tgi_tpu.input_batch import health_arrays
from tgi_tpu.model import decoder
from tgi_tpu.sampling.parameters import sampling_arrays
from tgi_tpu.sampling.sampler import SampledRows, SamplingArrays, sample, score_prompt_tokens
from tgi_tpu.step_arrays import StepArrays
from tgi_tpu.weights.parameters import Parameters

__all__ = ["COPIES", "LoadedModel", "Programs", "keep_programs_in", "warnings_logged"]

COPIES = 16
"""Number of blocks that one call copies."""

_TICK_SECONDS = 2.0  # interval of progress reports while the compiler runs

Key = tuple[str | int, ...]


@final
@dataclass(frozen=True)
class LoadedModel:
    """A model on its devices."""

    spec: ModelSpec
    parameters: Parameters
    plan: AttentionPlan
    dtype: str  # the compute dtype

    @property
    def replicated(self) -> NamedSharding:
        """A sharding in which every device has the whole array. Parameters and cache use other
        shardings.
        """
        return NamedSharding(self.plan.mesh, PartitionSpec())


def keep_programs_in(folder: Path) -> None:
    """Set `folder` as the cache of the programs that this process compiles later.

    A file that JAX cannot read is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compilation_cache.reset_cache()  # an earlier worker may have set another folder
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextmanager
def warnings_logged(reporter: WorkerReporter) -> Iterator[None]:
    """Log the warnings of JAX, for example about a damaged file of a cached program."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                reporter.log(f"while compiling: {str(warning.message).splitlines()[0]}")


def forward(  # noqa: PLR0917 - a compiled program has positional arguments
    spec: ModelSpec,
    plan: AttentionPlan,
    parameters: Parameters,
    cache: Cache,
    history: jax.Array,  # int32 [H, L]
    history_rows: jax.Array,  # int32 [T]
    step: StepArrays,
) -> tuple[jax.Array, jax.Array, Cache, jax.Array]:
    """Compute logits float32 [R, V] on every device, hidden vectors [T, H], cache and history.

    The ids of tokens that are only on the device are read from the history.
    """
    known = history[history_rows, step.positions]
    token_ids = jnp.where(step.token_ids == TOKEN_ON_DEVICE, known, step.token_ids)
    history = history.at[history_rows, step.positions].set(token_ids)
    hidden, cache = decoder.hidden_states(
        spec, parameters, cache, replace(step, token_ids=token_ids), attention=plan
    )
    logits = decoder.logits(spec, parameters, hidden[step.logit_indices], attention=plan)
    return logits, hidden, cache, history


def score(  # noqa: PLR0917 - as above
    spec: ModelSpec,
    plan: AttentionPlan,
    parameters: Parameters,
    hidden: jax.Array,  # [T, H]
    indices: jax.Array,  # int32 [R]
    targets: jax.Array,  # int32 [R]
    num_tops: jax.Array,  # int32 scalar
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute the raw log probabilities float32 [R] of the ids `targets` [R] after the tokens
    `indices` [R], and the most likely tokens after these tokens, as `score_prompt_tokens`.
    """
    logits = decoder.logits(spec, parameters, hidden[indices], attention=plan)
    return score_prompt_tokens(logits, targets, num_tops)


def write_history(history: jax.Array, row: jax.Array, tokens: jax.Array) -> jax.Array:
    """Return the history with `tokens` int32 [L] as row `row`."""
    return history.at[row].set(tokens)


@final
class Programs:
    """Compiled programs by name and shape."""

    def __init__(
        self, loaded: LoadedModel, cache: Cache, history: jax.Array, reporter: WorkerReporter
    ) -> None:
        self._loaded = loaded
        self._cache = jax.tree.map(_like, cache)
        self._history = _like(history)
        self._reporter = reporter
        self._compiled: dict[Key, Compiled] = {}
        whole = loaded.replicated
        cache_shardings = jax.tree.map(lambda array: array.sharding, cache)
        self._forward = jax.jit(
            partial(forward, loaded.spec, loaded.plan),
            donate_argnums=(1, 2),
            out_shardings=(whole, whole, cache_shardings, whole),
        )
        self._sample = jax.jit(sample, donate_argnums=1, out_shardings=whole)
        self._score = jax.jit(partial(score, loaded.spec, loaded.plan), out_shardings=whole)
        self._write_history = jax.jit(write_history, donate_argnums=0, out_shardings=whole)
        self.compile_ns = 0  # time spent compiling after startup

    def forward(self, shape: StepShape) -> Compiled:
        """Return the program of a forward pass. Its arguments are parameters, cache, history,
        history rows and step. Its results are logits, hidden vectors, cache and history.
        """
        return self._get(
            ("forward", shape.num_tokens, shape.num_blocks), partial(self._lower_forward, shape)
        )

    def sampler(self, num_rows: int, num_biases: int) -> Compiled:
        """Return the sampling program. Its arguments are logits, history, rows, parameters and mask
        words. Its results are the sampled tokens and the history.
        """
        return self._get(
            ("sample", num_rows, num_biases), partial(self._lower_sampler, num_rows, num_biases)
        )

    def scorer(self, shape: StepShape) -> Compiled:
        """Return the program that scores prompt tokens. Its arguments are parameters, hidden
        vectors, indices, targets and the number of top tokens. Its results are the log
        probabilities of the targets, and the ids and log probabilities of the top tokens.

        One call scores as many tokens as the shape has sequences.
        """
        return self._get(("score", shape.num_tokens), partial(self._lower_scorer, shape))

    def history_writer(self) -> Compiled:
        """Return the program that writes tokens to a row of the history. Its arguments are history,
        row and tokens. Its result is the history.
        """
        return self._get(("history",), self._lower_history_writer)

    def block_copier(self) -> Compiled:
        """Return the program that copies blocks. Its arguments are cache, sources and targets. Its
        result is the cache.
        """
        return self._get(("copy",), self._lower_block_copier)

    def compile_all(self, buckets: Buckets, *, scores_prompts: bool) -> None:
        """Compile all programs that the server needs, and report progress."""
        wanted = list(self._wanted(buckets, scores_prompts))
        for done, (key, lower) in enumerate(wanted):
            self._reporter.progress("warmup", done, len(wanted) + 1)
            report = partial(self._reporter.progress, "warmup", done, len(wanted) + 1)
            self._compiled[key] = self._compile(lower, report)

    def _wanted(
        self, buckets: Buckets, scores_prompts: bool
    ) -> Iterator[tuple[Key, Callable[[], Lowered]]]:
        for shape in buckets.shapes:
            yield (
                ("forward", shape.num_tokens, shape.num_blocks),
                partial(self._lower_forward, shape),
            )
        num_biases = len(sampling_arrays([], 1)["bias_rows"])
        for rows in buckets.rows:
            yield ("sample", rows, num_biases), partial(self._lower_sampler, rows, num_biases)
        for shape in (
            {shape.num_tokens: shape for shape in buckets.shapes}.values() if scores_prompts else ()
        ):
            yield ("score", shape.num_tokens), partial(self._lower_scorer, shape)
        yield ("history",), self._lower_history_writer
        yield ("copy",), self._lower_block_copier

    def _get(self, key: Key, lower: Callable[[], Lowered]) -> Compiled:
        if key not in self._compiled:
            began = time.perf_counter_ns()
            self._reporter.progress("compile", 0, 1)
            self._compiled[key] = self._compile(
                lower, partial(self._reporter.progress, "compile", 0, 1)
            )
            self._reporter.progress("compile", 1, 1)
            self.compile_ns += time.perf_counter_ns() - began
        return self._compiled[key]

    def _compile(self, lower: Callable[[], Lowered], report: Callable[[], None]) -> Compiled:
        """Compile in a thread, so that progress is reported during a long compilation."""
        with warnings_logged(self._reporter), ThreadPoolExecutor(1) as compiler:
            lowered = lower()
            compiled: Future[Compiled] = compiler.submit(lowered.compile)
            while not wait_for([compiled], _TICK_SECONDS).done:
                report()
        return compiled.result()

    def _lower_forward(self, shape: StepShape) -> Lowered:
        arrays = health_arrays(shape, 0, 1)
        step = StepArrays(
            **{name: self._array(array.shape, array.dtype) for name, array in arrays.items()}
        )
        rows = self._array((shape.num_tokens,), jnp.int32)
        parameters = jax.tree.map(_laid_out_like, self._loaded.parameters)
        return self._forward.lower(parameters, self._cache, self._history, rows, step)

    def _lower_sampler(self, num_rows: int, num_biases: int) -> Lowered:
        parameters = SamplingArrays(
            **{
                name: self._array(
                    (num_biases if name.startswith("bias_") else num_rows,), array.dtype
                )
                for name, array in sampling_arrays([], 1).items()
            }
        )
        ints = self._array((num_rows,), jnp.int32)
        rows = SampledRows(ints, ints, ints, self._array((num_rows,), jnp.float32))
        words = self._array((num_rows, -(-self._loaded.spec.vocab_size // 32)), jnp.int32)
        return self._sample.lower(self._logits(num_rows), self._history, rows, parameters, words)

    def _lower_scorer(self, shape: StepShape) -> Lowered:
        hidden = self._array((shape.num_tokens, self._loaded.spec.hidden_size), self._loaded.dtype)
        rows = self._array((shape.num_sequences,), jnp.int32)
        parameters = jax.tree.map(_laid_out_like, self._loaded.parameters)
        return self._score.lower(parameters, hidden, rows, rows, self._array((), jnp.int32))

    def _lower_history_writer(self) -> Lowered:
        row, tokens = self._array((), jnp.int32), self._array(self._history.shape[1:], jnp.int32)
        return self._write_history.lower(self._history, row, tokens)

    def _lower_block_copier(self) -> Lowered:
        blocks = self._array((COPIES,), jnp.int32)
        return decoder.copy_blocks.lower(self._loaded.spec, self._cache, blocks, blocks)

    def _logits(self, num_rows: int) -> Any:  # noqa: ANN401 - JAX types an abstract array as Any where it takes arrays
        return self._array((num_rows, self._loaded.spec.vocab_size), jnp.float32)

    def _array(self, shape: tuple[int, ...], dtype: Any) -> Any:  # noqa: ANN401
        return jax.ShapeDtypeStruct(shape, np.dtype(dtype), sharding=self._loaded.replicated)


def _like(array: jax.Array) -> Any:  # noqa: ANN401
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _laid_out_like(array: jax.Array) -> Any:  # noqa: ANN401
    """Return the shape, dtype, sharding and memory layout of `array`."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.format)  # type: ignore[attr-defined] # JAX's stub lacks it
