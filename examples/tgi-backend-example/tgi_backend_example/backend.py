"""The `Backend` class. It decides which models can run and imports no framework."""

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
    rejected_options,
)
from tgi.worker.adapter import AdapterPlan, adapter_worker

__all__ = ["ExampleBackend"]

_NAME = "example"
_PLAN = AdapterPlan(
    max_total_tokens=4096,
    max_sequences=32,
    max_step_tokens=512,
    max_cache_tokens=16384,
    facts={"attention": "numpy"},
)


@final
class ExampleBackend:
    """Runs the families Llama, Mistral, Qwen2 and Qwen3 in numpy."""

    @property
    def info(self) -> BackendInfo:
        """Name, package, version and priority of the backend. Because the priority is below 0,
        `--backend auto` selects this backend only if no other backend is usable.
        """
        return BackendInfo(_NAME, API_VERSION, "tgi-backend-example", "0.1.0", priority=-500)

    def probe(self) -> ProbeResult:
        """Look for the device here, without starting it."""
        return ProbeResult(True, devices=(DeviceInfo("example", "numpy"),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Whether the backend can run the model with these options, and every reason if not."""
        reasons = list(rejected_options(config, _NAME, dtypes=("float32",)))
        if isinstance(spec, GenericSpec):
            reasons.append(f"the architecture `{spec.model_type}` is not known to this backend")
        else:
            reasons += _refused_parts(spec)
        return Support("no", tuple(reasons)) if reasons else Support("native", ("numpy is slow",))

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Create the worker. Import a framework in this method and not earlier."""
        from tgi_backend_example.model import ExampleModel  # noqa: PLC0415

        if isinstance(config.spec, GenericSpec):
            raise BackendError(
                f"The architecture `{config.spec.model_type}` is not known to this backend.",
                "Choose another model.",
            )
        return adapter_worker(ExampleModel(config.spec, Path(config.model_path)), _PLAN, reporter)


def _refused_parts(spec: ModelSpec) -> list[str]:
    """Return the reasons why `model.py` cannot run this model. The result is empty if it can."""
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
        reasons.append(
            "its blocks are not plain residual blocks with a norm before each attention and MLP"
        )
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
                reasons.append("its attention differs from that of Llama")
            elif mixer.rope is not None and isinstance(
                mixer.rope.scaling, DynamicScaling | LongRopeScaling
            ):
                reasons.append("its rotary embedding depends on the length of each sequence")
        elif not isinstance(mixer, MLP) or not mixer.gated or mixer.activation != "silu":
            reasons.append("a layer is neither attention nor a gated MLP")
    embedding, head = spec.embedding, spec.head
    if embedding.positions or embedding.norm or embedding.size or embedding.scale != 1:
        reasons.append("its embedding is not a plain lookup table")
    if head.bias or head.softcap or head.scale != 1 or spec.decoder.final_norm is None:
        reasons.append("its output head is not a plain matrix after a norm")
    return sorted(set(reasons))
