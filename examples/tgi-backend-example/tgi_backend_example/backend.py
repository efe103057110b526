"""The light half: says what can run, without importing the model."""

from __future__ import annotations

from pathlib import Path
from typing import final

from tgi.architectures import (
    MLP,
    Attention,
    DynamicScaling,
    GenericSpec,
    LongRopeScaling,
    ModelSpec,
)
from tgi.backend import (
    API_VERSION,
    BackendError,
    BackendInfo,
    DeviceInfo,
    EngineConfig,
    ProbeResult,
    Support,
    Worker,
    WorkerReporter,
)
from tgi.worker.adapter import AdapterPlan, adapter_worker

__all__ = ["ExampleBackend"]

_PLAN = AdapterPlan(
    max_total_tokens=4096,
    max_sequences=32,
    max_step_tokens=512,
    max_cache_tokens=16384,
    facts={"dtype": "float32", "attention": "numpy"},
)


@final
class ExampleBackend:
    """Llama, mistral, qwen2 and qwen3 in numpy."""

    @property
    def info(self) -> BackendInfo:
        """Below 0: `auto` takes it only where nothing else is usable."""
        return BackendInfo("example", API_VERSION, "tgi-backend-example", "0.1.0", priority=-500)

    def probe(self) -> ProbeResult:
        """Look for the device here, without starting it."""
        return ProbeResult(True, devices=(DeviceInfo("example", "numpy"),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """No, with every reason, or yes."""
        reasons = _refused_options(config)
        if isinstance(spec, GenericSpec):
            reasons.append(f"the architecture `{spec.model_type}` is not one that it knows")
        else:
            reasons += _refused_parts(spec)
        return Support("no", tuple(reasons)) if reasons else Support("native", ("numpy is slow",))

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """The heavy half; import a framework no earlier than here."""
        from tgi_backend_example.model import (  # noqa: PLC0415
            ExampleModel,
        )

        if isinstance(config.spec, GenericSpec):
            raise BackendError(
                f"The architecture `{config.spec.model_type}` is not known.",
                "Choose another model.",
            )
        return adapter_worker(ExampleModel(config.spec, Path(config.model_path)), _PLAN, reporter)


def _refused_options(config: EngineConfig) -> list[str]:
    refused = []
    if config.dtype not in (None, "float32"):
        refused.append(f"`--dtype {config.dtype}`: it computes in float32")
    if config.quantize is not None:
        refused.append(f"`--quantize {config.quantize}` is not supported")
    if config.kv_cache_dtype is not None:
        refused.append(f"`--kv-cache-dtype {config.kv_cache_dtype}` is not supported")
    if config.num_shard > 1:
        refused.append(f"`--num-shard {config.num_shard}`: there is one device")
    return refused


def _refused_parts(spec: ModelSpec) -> list[str]:
    """What of this model the decoder in `model.py` does not compute."""
    reasons = []
    blocks = [block for layer in spec.decoder.layers for block in layer.blocks]
    mixers = [branch.mixer for block in blocks for branch in block.branches]
    is_plain = all(
        len(b.branches) == 1 and not b.norm and not b.output_norm and b.residual_scale == 1
        for b in blocks
    )
    if (
        len(spec.stacks) > 1
        or not is_plain
        or any(b.branches[0].post_norm or not b.branches[0].norm for b in blocks)
    ):
        reasons.append("its blocks are not plain residual blocks with a norm before each part")
    for mixer in mixers:
        if isinstance(mixer, Attention):
            is_known = (
                mixer.rope is not None
                and not mixer.rope.interleaved
                and mixer.qk_norm_over == "head"
            )
            has_more = (
                mixer.alibi or mixer.softcap or mixer.clip_qkv or mixer.sinks or mixer.relative_bias
            )
            if not is_known or has_more or not mixer.causal:
                reasons.append("its attention is not that of Llama")
            elif mixer.rope is not None and isinstance(
                mixer.rope.scaling, DynamicScaling | LongRopeScaling
            ):
                reasons.append("its rotation depends on the length of each sequence")
        elif not isinstance(mixer, MLP) or not mixer.gated or mixer.activation != "silu":
            reasons.append("a layer is neither attention nor a gated MLP")
    embedding, head = spec.embedding, spec.head
    if embedding.positions or embedding.norm or embedding.size or embedding.scale != 1:
        reasons.append("its embedding is more than a table")
    if head.bias or head.softcap or head.scale != 1 or spec.decoder.final_norm is None:
        reasons.append("its head is not a plain matrix behind a norm")
    return sorted(set(reasons))
