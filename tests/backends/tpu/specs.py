"""Specs of tiny models from their configs, by the names in `tests.backends.checkpoints`."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from transformers import AutoConfig

from tests.backends.checkpoints import FAMILIES, VARIANTS
from tests.backends.mixer_checkpoints import VARIANTS as MIXER_VARIANTS
from tgi.architectures import ModelSpec, load_spec

__all__ = ["COVERED", "OTHERS", "REFUSED", "spec_of"]

COVERED = (
    "apertus",
    "bloom-residual-from-norm",
    "cohere-norms",
    "cohere2_moe",
    "dbrx",
    "falcon-alibi",
    "gemma2",
    "gemma3_text-scaled",
    "gpt2-scaled-by-layer",
    "gpt_neox-half-rotary",
    "gpt_oss",
    "gptj",
    "granitemoe",
    "hunyuan_v1_dense",
    "llama-dynamic",
    "llama-llama3",
    "ministral3",
    "mistral",
    "mixtral",
    "mpt-clipped",
    "olmo2",
    "opt-350m",
    "phi3-longer",
    "phimoe-long",
    "qwen2_moe",
    "qwen3",
    "stablelm-norms",
)
"""Variants that together cover every branch of the model."""

REFUSED = {
    **dict.fromkeys(
        ("gemma4_text", "gemma4_text-same-values"),
        "a norm of the values is not supported by this backend",
    ),
    **dict.fromkeys(
        ("llama4_text", "llama4_text-dense"),
        "attention in chunks is not supported by this backend",
    ),
    **dict.fromkeys(
        ("mimo_v2_flash", "mimo_v2_flash-groups"),
        "attention whose values have a different size than its keys is not supported by this"
        " backend",
    ),
    "deepseek_v2": "latent attention is not supported by this backend",
    "mamba2": "state space is not supported by this backend",
    "qwen3_next": "linear attention is not supported by this backend",
    "t5": "a model with an encoder is not supported by this backend",
}
"""Variants that are not supported, with the reason. Some are those of `mixer_checkpoints`."""

OTHERS = tuple(sorted(set(VARIANTS) - set(COVERED) - set(REFUSED)))

_ODD = {"llama-odd": ("llama", {"intermediate_size": 42})}
"""Sizes that are not divisible by four devices."""


@cache
def spec_of(variant: str) -> ModelSpec:
    """The spec of a variant, cached because `transformers` is slow."""
    if variant in VARIANTS or variant in _ODD:
        family, overrides = (VARIANTS | _ODD)[variant]
        config = FAMILIES[family] | overrides
    else:
        family, config = MIXER_VARIANTS[variant]
    with tempfile.TemporaryDirectory() as folder:
        AutoConfig.for_model(family, **config).save_pretrained(folder)
        spec = load_spec(Path(folder))
    assert isinstance(spec, ModelSpec)
    return spec
