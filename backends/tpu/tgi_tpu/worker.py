"""The worker of the TPU backend. It runs one replica of a model on one chip, or on several chips
among which the replica is divided.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import final

import jax
import jax.numpy as jnp
import msgspec
import psutil  # type: ignore[import-untyped] # it ships no types
from jax.sharding import Mesh

from tgi.architectures import ModelSpec
from tgi.architectures.rope import original_length
from tgi.backend import (
    API_VERSION,
    SAMPLING_FIELDS,
    Agreement,
    BackendError,
    Dtype,
    EngineConfig,
    GrammarMasks,
    ModelRunnerOutput,
    RequestedLimits,
    SchedulerOutput,
    WorkerReporter,
)
from tgi.checkpoints.checkpoint import read_headers
from tgi.worker.buckets import Buckets, parse_token_buckets
from tgi.worker.checkpoint import main_dtype_of
from tgi.worker.memory.errors import cache_out_of_memory
from tgi.worker.memory.limits import rounding_line
from tgi.worker.parts import Progress
from tgi.worker.sequences import SequenceTable
from tgi.worker.step_worker import StepWorker
from tgi_tpu.attention.plan import choose_attention
from tgi_tpu.memory import (
    BLOCK_SIZE,
    BUCKETS_OPTION,
    DTYPE_BYTES,
    MemoryFacts,
    compute_dtype,
    plan_limits,
)
from tgi_tpu.mesh import make_mesh
from tgi_tpu.model import decoder
from tgi_tpu.model.layer_groups import attention_of
from tgi_tpu.programs import LoadedModel, Programs, keep_programs_in, warnings_logged
from tgi_tpu.runner import ModelRunner
from tgi_tpu.sampling.sampler import MAX_TOP_N
from tgi_tpu.weights.leaves import Quantization
from tgi_tpu.weights.matrix_formats import CheckpointFormats, checkpoint_formats
from tgi_tpu.weights.parameters import parameter_bytes

__all__ = ["TpuPart", "tpu_worker"]

_MAX_STEP_TOKENS = 1024  # the default; matrix products reach their full throughput at this size
_FEATURES = ("device_token", "late_mask", "logprobs", "mask", "prompt_logprobs")
_PLATFORMS = {"cpu": "JAX on the CPU, no TPU"}


def tpu_worker(config: EngineConfig, reporter: WorkerReporter) -> StepWorker:
    """Create a worker of one replica. Raises `BackendError` if the architecture is not known."""
    return StepWorker(TpuPart(config, reporter), reporter)


@final
class TpuPart:
    """The `WorkerPart` with parameters, cache, programs and a runner. `enqueue` starts a step."""

    def __init__(self, config: EngineConfig, reporter: WorkerReporter) -> None:
        if not isinstance(config.spec, ModelSpec):
            raise BackendError(
                f"The architecture `{config.spec.model_type}` is not known, so this backend cannot"
                " run it."
            )
        self._spec = config.spec
        self._config = config
        self._reporter = reporter
        self._loaded: LoadedModel | None = None
        self._runner: ModelRunner | None = None
        self._quantization: Quantization | None = None

    def load(self, progress: Progress) -> None:
        """Load the weights onto the chips. Raises a `ModelError` with the file and the tensor if
        the weights cannot be loaded.
        """
        config, path = self._config, Path(self._config.model_path)
        tensors = read_headers(path)
        stored = main_dtype_of(tensors, path)
        dtype = compute_dtype(config.dtype, stored)
        line = rounding_line(config.dtype, stored, dtype)
        if line is not None:
            self._reporter.log(line)
        formats = checkpoint_formats(self._spec, path)
        if formats is not None:
            self._reporter.log(formats.line(dtype, DTYPE_BYTES[dtype]))
        self._quantization = formats or (None if config.quantize is None else "int8")
        if config.cache_dir:
            keep_programs_in(Path(config.cache_dir) / "tpu")
        platform = _prepared_platform(config.options.get("platform", "auto"), config.num_shard)
        mesh = make_mesh(config.num_shard, platform)
        with warnings_logged(self._reporter):
            parameters = decoder.load(
                self._spec,
                path,
                mesh,
                dtype,
                quantization=self._quantization,
                progress=progress,
            )
        plan = choose_attention(
            self._spec, mesh, platform=platform, dtype=dtype, block_size=BLOCK_SIZE
        )
        self._loaded = LoadedModel(self._spec, parameters, plan, dtype)

    def plan(self, requested: RequestedLimits) -> Agreement:
        """Keep the limits that the user requested, and derive the other limits from the free
        memory.
        """
        assert self._loaded is not None
        mesh, dtype = self._loaded.plan.mesh, self._loaded.dtype
        buckets = self._token_buckets
        facts = MemoryFacts(
            free_bytes=_free_bytes(mesh, self._config.memory_fraction),
            weights_bytes=parameter_bytes(self._spec, mesh, dtype, self._quantization),
            block_bytes=decoder.cache_bytes_per_block(self._spec, BLOCK_SIZE, dtype, mesh),
            block_size=BLOCK_SIZE,
            dtype=dtype,
            default_step_tokens=max(buckets, default=_MAX_STEP_TOKENS),
            weights_detail=(
                self._quantization.detail(dtype)
                if isinstance(self._quantization, CheckpointFormats)
                else None
            ),
        )
        plan = plan_limits(self._spec, requested, facts)
        # Raises an error early if the requested buckets do not fit every step.
        Buckets.of(plan.limits, BLOCK_SIZE, buckets, BUCKETS_OPTION)
        shared = ("prefix_cache",) if _can_share(self._spec, plan.limits.max_total_tokens) else ()
        return Agreement(
            api=API_VERSION,
            features=(*_FEATURES, *shared),
            limits=plan.limits,
            kv_cache=plan.kv_cache,
            vocab_size=self._spec.vocab_size,
            sampling=tuple(sorted(SAMPLING_FIELDS)),
            sampling_caps={"top_n_tokens": MAX_TOP_N},
            memory=plan.memory,
            facts=self._facts(),
            dtype=msgspec.convert(dtype, Dtype),
        )

    def prepare(self, agreement: Agreement, progress: Progress) -> None:
        """Allocate the cache, compile every program, and run one."""
        del progress  # compilation is reported as a separate phase
        assert self._loaded is not None
        try:
            with warnings_logged(self._reporter):
                self._runner = self._prepared_runner(self._loaded, agreement)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, MemoryError):
                raise
            raise cache_out_of_memory(
                agreement,
                "Lower `--max-batch-total-tokens` or `--max-batch-prefill-tokens`, or use more"
                " chips (`--num-shard`).",
            ) from error

    def enqueue(self, step: SchedulerOutput) -> None:
        """Start the step on the device. Raises `StepError` if the step exceeds the negotiated
        limits.
        """
        self._ready_runner.enqueue(step)

    def enqueue_masks(self, masks: GrammarMasks) -> None:
        """Sample the tokens of the step that waits for these masks."""
        self._ready_runner.enqueue_masks(masks)

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Wait for the oldest step.

        Raises `StepError` immediately if the masks of the step are missing, because the thread that
        would wait for the masks is also the thread that submits them.
        """
        return self._ready_runner.finish(step)

    def probe(self) -> bool:
        """Compute one token in the additional block, which no sequence uses."""
        return self._ready_runner.computes()

    def peak_memory_bytes(self) -> int:
        """Return the maximum memory that all devices have used. Returns 0 on the CPU platform,
        because this platform does not report its memory.
        """
        return 0 if self._loaded is None else _used_bytes(self._loaded.plan.mesh)

    def close(self) -> None:
        """Release the weights, cache and programs."""
        self._loaded = self._runner = None

    @property
    def _ready_runner(self) -> ModelRunner:
        if self._runner is None:
            raise AssertionError("`prepare` makes the runner before the first step")
        return self._runner

    def _prepared_runner(self, loaded: LoadedModel, agreement: Agreement) -> ModelRunner:
        limits, num_blocks = agreement.limits, agreement.kv_cache.groups[0].num_blocks
        buckets = Buckets.of(limits, BLOCK_SIZE, self._token_buckets, BUCKETS_OPTION)
        cache = decoder.empty_cache(
            self._spec, num_blocks + 1, BLOCK_SIZE, loaded.dtype, loaded.plan.mesh
        )
        history = jnp.zeros(
            (limits.max_sequences + 1, limits.max_total_tokens + 1),
            jnp.int32,
            device=loaded.replicated,
        )
        programs = Programs(loaded, cache, history, self._reporter)
        programs.compile_all(buckets, scores_prompts=agreement.has("prompt_logprobs"))
        runner = ModelRunner(
            loaded,
            programs,
            buckets=buckets,
            limits=limits,
            cache=cache,
            history=history,
            table=SequenceTable(limits, BLOCK_SIZE, agreement.vocab_size),
            num_blocks=num_blocks,
        )
        runner.computes()
        return runner

    @property
    def _token_buckets(self) -> tuple[int, ...]:
        text = self._config.options.get("token-buckets", "")
        return parse_token_buckets(text, BUCKETS_OPTION)

    def _facts(self) -> dict[str, str]:
        assert self._loaded is not None
        plan, devices = self._loaded.plan, self._loaded.plan.mesh.devices
        return {
            "dtype": self._loaded.dtype,
            "jax": jax.__version__,
            "platform": _PLATFORMS.get(
                str(devices.flat[0].platform), str(devices.flat[0].platform)
            ),
            "device": str(devices.flat[0].device_kind),
            "num_devices": str(devices.size),
            "attention": plan.kernel,
            **self._quantization_facts(),
            **{
                f"attention not by {c.kernel}": c.reason
                for c in plan.candidates
                if c.reason is not None
            },
        }

    def _quantization_facts(self) -> dict[str, str]:
        match self._quantization:
            case None:
                return {"quantization": "none"}
            case CheckpointFormats() as formats:
                return {"quantization": formats.description}
            case name:
                return {"quantization": f"{name} weights", "weight scales": "one per output"}


def _prepared_platform(requested: str, num_shard: int) -> str:
    """Return the platform of the computation. On the CPU platform, JAX is configured to have as
    many devices as there are shards.
    """
    if requested != "cpu":
        return "tpu"
    jax.config.update("jax_platforms", "cpu")
    if num_shard > 1:
        with contextlib.suppress(
            RuntimeError
        ):  # JAX has started already; `make_mesh` raises an error if there are too few devices
            jax.config.update("jax_num_cpu_devices", num_shard)
    return "cpu"


def _free_bytes(mesh: Mesh, fraction: float) -> int:
    """Return the memory in bytes that one device may still use, limited by the requested fraction.

    The CPU platform does not report its memory. Its devices share half of the machine's free
    memory.
    """
    stats = mesh.devices.flat[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        return int(psutil.virtual_memory().available * fraction) // (2 * mesh.size)
    return max(0, int(stats["bytes_limit"] * fraction) - int(stats["bytes_in_use"]))


def _used_bytes(mesh: Mesh) -> int:
    stats = [device.memory_stats() or {} for device in mesh.devices.flat]
    return sum(int(each.get("peak_bytes_in_use", 0)) for each in stats)


def _can_share(spec: ModelSpec, max_total_tokens: int) -> bool:
    """Whether the blocks of a prefix depend only on its tokens. Some rotary embeddings depend on
    the length of the sequence.
    """
    mixers = (attention_of(layer) for layer in spec.decoder.layers)
    lengths = (
        original_length(mixer.rope)
        for mixer in mixers
        if mixer is not None and mixer.rope is not None
    )
    return all(length is None or length >= max_total_tokens for length in lengths)
