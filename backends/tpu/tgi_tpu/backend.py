"""The `Backend` class of the TPU backend. The class reports whether this machine can run a model.

Only `create_worker` and `explain` import JAX.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import final

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import (
    API_VERSION,
    GGUF,
    SAFETENSORS,
    BackendError,
    BackendInfo,
    BackendOption,
    DeviceInfo,
    EngineConfig,
    Implementation,
    MemoryItem,
    ModelError,
    ModelFilesWanted,
    ProbeResult,
    Support,
    Worker,
    WorkerReporter,
    reject_option,
    rejected_options,
)
from tgi.checkpoints.checkpoint import read_headers
from tgi.worker.buckets import parse_token_buckets
from tgi.worker.checkpoint import check_checkpoint, main_dtype_of
from tgi_tpu.chips import find_chips, has_device_nodes
from tgi_tpu.coverage import unsharded, unsupported
from tgi_tpu.memory import (
    BLOCK_SIZE,
    BUCKETS_OPTION,
    DTYPE_BYTES,
    INT8_NAMES,
    compute_dtype,
    kv_bytes_per_token,
    weights_bytes,
)
from tgi_tpu.weights.matrix_formats import NOT_COMPUTED, CheckpointFormats, checkpoint_formats

__all__ = ["TpuBackend"]

_NAME = "tpu"
_VERSION = "4.0.0.dev0"
_PRIORITY = 100
_MAX_CPU_SHARDS = 8  # maximum on JAX's CPU platform; one host has at most 8 chips
_MODEL_FILES = ModelFilesWanted(formats=(SAFETENSORS, GGUF))
_KERNELS = {
    "jax": "the ragged paged attention of JAX",
    "pallas": "the Pallas kernel of this backend",
    "xla": "plain XLA operations",
}
_OPTIONS = (
    BackendOption(
        "platform",
        "JAX platform to compute on: `auto` needs a TPU chip, `cpu` runs the same programs slowly"
        " on any machine",
        default="auto",
        choices=("auto", "cpu"),
    ),
    BackendOption(
        "token-buckets",
        "Numbers of tokens to which steps are padded, each compiled at startup, e.g. 16,128,1024;"
        " default: powers of two from 16 to the largest step",
    ),
)


@final
class TpuBackend:
    """Backend that runs on TPU chips, or on JAX's CPU platform if requested."""

    @property
    def info(self) -> BackendInfo:
        """Name, version and priority. `auto` does not select this backend on a machine without a
        chip.
        """
        has_chips = bool(find_chips())
        return BackendInfo(
            _NAME,
            API_VERSION,
            "tgi-tpu",
            _VERSION,
            _PRIORITY,
            selectable=has_chips,
            options=_OPTIONS,
            model_files=_MODEL_FILES,
        )

    def probe(self) -> ProbeResult:
        """Report that the backend is usable if JAX is installed.

        This method finds JAX without importing it. Without a chip, `supports` accepts only the CPU
        platform.
        """
        if find_spec("jax") is None:
            return ProbeResult(
                False,
                'JAX is not installed; install it with the backend: pip install "tgi-tpu[chip]"',
            )
        chips = find_chips()
        if not chips:
            reason = "no TPU chip was found, so it requires `--tpu-platform cpu`"
            return ProbeResult(True, reason, (DeviceInfo("cpu", "JAX on the CPU, no TPU"),))
        if not has_device_nodes():
            reason = (
                "the TPU chips have no device nodes; in a container, pass /dev/accel* or /dev/vfio"
                " to it"
            )
            return ProbeResult(False, reason)
        if find_spec("libtpu") is None:
            return ProbeResult(
                False,
                'libtpu is not installed, so JAX cannot use the chips; pip install "tgi-tpu[chip]"',
            )
        devices = (
            DeviceInfo(f"tpu:{i}", f"Google TPU {chip.generation}", chip.memory_bytes)
            for i, chip in enumerate(chips)
        )
        return ProbeResult(True, devices=tuple(devices))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Report whether the model is unsupported (with all reasons) or native.

        For a supported model the result contains a memory estimate.
        """
        reasons = _refused_options(config)
        if not isinstance(spec, ModelSpec):
            return Support("no", (f"the architecture `{spec.model_type}` is not known", *reasons))
        reasons = (*_missing_parts(spec, config.num_shard), *reasons)
        if reasons:
            return Support("no", reasons)
        dtype = compute_dtype(config.dtype, _stored_dtype(Path(config.model_path)))
        formats = checkpoint_formats(spec, Path(config.model_path))
        stored = dtype if formats is None else formats.detail(dtype)
        by_parameter = {} if formats is None else formats.by_parameter
        memory = (
            MemoryItem(
                "weights",
                weights_bytes(spec, dtype, config.quantize, by_parameter),
                f"int8 and {dtype}" if config.quantize else stored,
            ),
            MemoryItem("KV cache of one token", kv_bytes_per_token(spec, dtype), dtype),
        )
        return Support("native", memory=memory)

    def explain(
        self, spec: ModelSpec | GenericSpec, config: EngineConfig
    ) -> tuple[Implementation, ...]:
        """Report the attention kernel, the weight format and the reasons against the alternatives.

        This method imports JAX, but does not use the chips.
        """
        if not isinstance(spec, ModelSpec):
            return ()
        from tgi_tpu.attention.plan import (  # noqa: PLC0415
            attention_candidates,
        )

        dtype = compute_dtype(config.dtype, _stored_dtype(Path(config.model_path)))
        platform = "cpu" if config.options.get("platform") == "cpu" else "tpu"
        candidates = attention_candidates(
            spec, config.num_shard, platform=platform, dtype=dtype, block_size=BLOCK_SIZE
        )
        (chosen,) = (candidate.kernel for candidate in candidates if candidate.reason is None)
        others = tuple((_KERNELS[c.kernel], c.reason) for c in candidates if c.reason is not None)
        formats = checkpoint_formats(spec, Path(config.model_path))
        if formats is not None:
            weights = _explained_weights(formats, dtype)
            return (Implementation("attention", _KERNELS[chosen], others), weights)
        whole = () if config.quantize else (("int8", "`--quantize int8` was not set"),)
        weights = Implementation(
            "weights", f"int8, products in {dtype}" if config.quantize else dtype, whole
        )
        return (Implementation("attention", _KERNELS[chosen], others), weights)

    def check(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> None:
        """Check the weight files as the loader does."""
        if isinstance(spec, ModelSpec):
            check_checkpoint(Path(config.model_path), spec)

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Create the worker. This method imports JAX."""
        from tgi_tpu.worker import tpu_worker  # noqa: PLC0415 - only the worker imports JAX

        return tpu_worker(config, reporter)


def _explained_weights(formats: CheckpointFormats, dtype: str) -> Implementation:
    """Report the format of a quantized checkpoint on the devices, and the formats of the weights
    that are dequantized.
    """
    loss = formats.loss
    if loss is None:
        return Implementation("weights", formats.detail(dtype), ())
    cost = f"dequantized to {dtype}, because {NOT_COMPUTED}; {loss.cost(DTYPE_BYTES[dtype])}"
    rejected = tuple((name, cost) for name in loss.formats)
    return Implementation("weights", formats.detail(dtype), rejected)


def _missing_parts(spec: ModelSpec, num_shard: int) -> tuple[str, ...]:
    """Return the reasons why this model, divided among `num_shard` chips, cannot run. The result is
    empty if the model can run.
    """
    missing = unsupported(spec)
    if missing:
        return (missing,)
    undivided = unsharded(spec, num_shard)
    if undivided:
        remedy = f"{undivided}: use another number"
        return (reject_option(_NAME, "num_shard", num_shard, remedy),)
    return ()


def _refused_options(config: EngineConfig) -> tuple[str, ...]:
    refused = []
    num_devices, platform = (
        sum(chip.num_devices for chip in find_chips()),
        config.options.get("platform", "auto"),
    )
    if platform == "auto" and not num_devices:
        refused.append(
            "no TPU chip was found; `--tpu-platform cpu` runs the same programs on JAX's CPU"
            " platform"
        )
    if config.num_shard > (_MAX_CPU_SHARDS if platform == "cpu" else max(num_devices, 1)):
        remedy = (
            f"JAX's CPU platform emulates at most {_MAX_CPU_SHARDS} devices"
            if platform == "cpu"
            else f"there are {num_devices} TPU devices"
        )
        refused.append(reject_option(_NAME, "num_shard", config.num_shard, remedy))
    refused += rejected_options(
        config, _NAME, dtypes=sorted(DTYPE_BYTES), quantize=INT8_NAMES, max_shards=None
    )
    try:
        parse_token_buckets(config.options.get("token-buckets", ""), BUCKETS_OPTION)
    except BackendError as error:
        refused.append(str(error).rstrip("."))
    return tuple(refused)


def _stored_dtype(model_path: Path) -> str | None:
    """Return the dtype of most of the weights, which is used only for the estimate.

    The result is None if a file is damaged, because `Worker.load` reports such a file.
    """
    try:
        return main_dtype_of(read_headers(model_path), model_path)
    except ModelError:
        return None
