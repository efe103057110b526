"""The light half of the CPU backend: says what this machine can run, without importing torch."""

from __future__ import annotations

import os
import platform
from importlib.util import find_spec
from pathlib import Path
from typing import final

from safetensors import SafetensorError, safe_open

from tgi.architectures import GenericSpec, LinearAttention, ModelSpec
from tgi.backend import (
    API_VERSION,
    BackendInfo,
    DeviceInfo,
    EngineConfig,
    Host,
    MemoryItem,
    ProbeResult,
    Support,
    Worker,
)
from tgi_cpu import machine
from tgi_torch.memory import DTYPE_BYTES, compute_dtype, kv_bytes_per_token, state_bytes, weights_bytes

__all__ = ["CpuBackend"]

_VERSION = "4.0.0.dev0"
_PRIORITY = -100  # every accelerator goes first
_SPIN_COUNT = "10000"  # some 20 us: about the pause between two operations of one step
_STORED_DTYPES = {"F16": "float16", "BF16": "bfloat16"}


@final
class CpuBackend:
    """Runs on every machine that has torch."""

    @property
    def info(self) -> BackendInfo:
        """Taken by `auto` where nothing faster is usable."""
        return BackendInfo("cpu", API_VERSION, "tgi-cpu", _VERSION, _PRIORITY)

    def probe(self) -> ProbeResult:
        """Usable if torch is installed; it is looked for, not imported."""
        if find_spec("torch") is None:
            return ProbeResult(False, "torch is not installed; install it with the backend: pip install torch tgi-cpu")
        label = " ".join([platform.machine(), *machine.instruction_sets()])
        return ProbeResult(True, devices=(DeviceInfo("cpu", label, machine.total_memory()),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """No, with every reason, or native or slow, with an estimate of the memory."""
        if isinstance(spec, GenericSpec):
            return Support("no", (f"the architecture `{spec.model_type}` is not one that it knows", *_refused_options(config)))
        reasons = (*_refused_mixers(spec), *_refused_options(config))
        if reasons:
            return Support("no", reasons)
        dtype = compute_dtype(config.dtype, _stored_dtype(Path(config.model_path)))
        memory = (
            MemoryItem("weights", weights_bytes(spec, dtype), dtype),
            MemoryItem("KV cache of one token", kv_bytes_per_token(spec, dtype), dtype),
            *((MemoryItem("state of one sequence", state_bytes(spec, dtype), dtype),) if state_bytes(spec, dtype) else ()),
        )
        if dtype == "float16":
            return Support("slow", ("CPUs compute float16 slowly; bfloat16 and float32 are faster",), memory)
        return Support("native", memory=memory)

    def create_worker(self, config: EngineConfig, host: Host) -> Worker:
        """The heavy half: imports torch."""
        # A thread that waits for the next operation spins. Where a processor is shared, it spins on the time of the thread it
        # waits for, and steps take ten times as long; so it soon sleeps. Read when torch loads its OpenMP runtime.
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
        from tgi_cpu.worker import create_worker  # noqa: PLC0415 - the two halves load apart

        return create_worker(config, host)


def _refused_mixers(spec: ModelSpec) -> tuple[str, ...]:
    blocks = (block for stack in spec.stacks for layer in stack.layers for block in layer.blocks)
    mixers = (branch.mixer for block in blocks for branch in block.branches)
    unknown = {type(mixer).__name__ for mixer in mixers if isinstance(mixer, LinearAttention)}
    return tuple(f"{name} layers are not built yet" for name in sorted(unknown))


def _refused_options(config: EngineConfig) -> tuple[str, ...]:
    refused = []
    if config.dtype is not None and config.dtype not in DTYPE_BYTES:
        refused.append(f"`--dtype {config.dtype}` is not one of {', '.join(sorted(DTYPE_BYTES))}")
    if config.quantize is not None:
        refused.append(f"`--quantize {config.quantize}` is not supported here; serve the unquantized checkpoint")
    if config.kv_cache_dtype is not None:
        refused.append(f"`--kv-cache-dtype {config.kv_cache_dtype}` is not supported here; leave it out")
    if config.num_shard > 1:
        refused.append(f"`--num-shard {config.num_shard}`: this backend has one device; use 1")
    return tuple(refused)


def _stored_dtype(model_path: Path) -> str:
    """The dtype of most tensors of the first weight file, for the estimate alone: a damaged file is `Worker.load`'s to name."""
    path = next(iter(sorted(model_path.glob("*.safetensors"))), None)
    if path is None:
        return "float32"
    try:
        with safe_open(path, framework="np") as file:
            dtypes = [str(file.get_slice(name).get_dtype()) for name in file.keys()]  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return "float32"
    return _STORED_DTYPES.get(max(set(dtypes), key=dtypes.count, default=""), "float32")
