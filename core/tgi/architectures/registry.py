"""Finds the spec of a model folder. Built-in families are in a table, and entry points add more."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec

from tgi.architectures.config_reader import read_config
from tgi.architectures.generic import generic_spec
from tgi.architectures.spec import Attention, GenericSpec, LatentAttention, ModelSpec
from tgi.architectures.text_models import text_config_of, with_outer_names
from tgi.errors import ModelError

__all__ = ["ENTRY_POINT_GROUP", "FAMILIES", "load_spec"]

ENTRY_POINT_GROUP = "tgi.architectures"
"""An entry point is named after its `model_type` and refers to a module that defines
`spec(config: dict) -> ModelSpec`. The module is imported when a config has this `model_type`.
"""

FAMILIES = {
    "apertus": "apertus",
    "arcee": "arcee",
    "baichuan": "baichuan",
    "bamba": "bamba",
    "bloom": "bloom",
    "codegen": "codegen",
    "cohere": "cohere",
    "cohere2": "cohere2",
    "cohere2_moe": "cohere2_moe",
    "dbrx": "dbrx",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "deepseek_v32": "deepseek_v32",
    "ernie4_5": "ernie4_5",
    "ernie4_5_moe": "ernie4_5_moe",
    "exaone": "exaone",
    "exaone4": "exaone4",
    "exaone_moe": "exaone_moe",
    "falcon": "falcon",
    "falcon_h1": "falcon_h1",
    "falcon_mamba": "falcon_mamba",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gemma4_text": "gemma4",
    "glm": "glm",
    "glm4": "glm4",
    "glm4_moe": "glm4_moe",
    "glm4_moe_lite": "glm4_moe_lite",
    "glm_moe_dsa": "deepseek_v32",
    "gpt2": "gpt2",
    "gpt_bigcode": "gpt_bigcode",
    "gpt_neo": "gpt_neo",
    "gpt_neox": "gpt_neox",
    "gpt_oss": "gpt_oss",
    "gptj": "gptj",
    "granite": "granite",
    "granitemoe": "granitemoe",
    "granitemoehybrid": "granitemoehybrid",
    "granitemoeshared": "granitemoeshared",
    "helium": "helium",
    "hunyuan_v1_dense": "hunyuan_v1_dense",
    "hunyuan_v1_moe": "hunyuan_v1_moe",
    "internlm2": "internlm2",
    "internlm3": "internlm3",
    "jamba": "jamba",
    "kimi_k2": "deepseek_v3",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2_moe",
    "lfm3": "lfm3",
    "llama": "llama",
    "llama4_text": "llama4",
    "mamba": "mamba",
    "mamba2": "mamba2",
    "mimo_v2_flash": "mimo_v2_flash",
    "minicpm": "minicpm",
    "minicpm3": "minicpm3",
    "minimax": "minimax",
    "minimax_m2": "minimax_m2",
    "ministral": "ministral",
    "ministral3": "ministral3",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "mpt": "mpt",
    "mt5": "t5",
    "nemotron": "nemotron",
    "nemotron_h": "nemotron_h",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmo3": "olmo3",
    "olmoe": "olmoe",
    "opt": "opt",
    "persimmon": "persimmon",
    "phi": "phi",
    "phi3": "phi3",
    "phimoe": "phimoe",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3_5_moe_text": "qwen3_5",
    "qwen3_5_text": "qwen3_5",
    "qwen3_moe": "qwen3_moe",
    "qwen3_next": "qwen3_next",
    "recurrent_gemma": "recurrent_gemma",
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "solar_open": "solar_open",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
    "t5": "t5",
    "xglm": "xglm",
}
"""Maps `model_type` to the module in `families` that reads the config. Identical architectures
share a module.
"""


def load_spec(
    model_path: Path, *, rope_scaling: str | None = None, rope_factor: float | None = None
) -> ModelSpec | GenericSpec:
    """Read `model_path`/config.json. For an unknown `model_type` the result is a `GenericSpec`.

    `rope_scaling` (`linear` or `dynamic`) and `rope_factor` are options of TGI. These options
    replace the scaling in the config, and the model's context length is multiplied by the factor.
    If only the factor is given, linear scaling is used. If only the kind of scaling is given, the
    factor is 1. Raises `ModelError`.
    """
    config = read_config(model_path)
    if rope_scaling is None and rope_factor is None:
        return _read_spec(config)
    scaling, factor = rope_scaling or "linear", 1.0 if rope_factor is None else rope_factor
    spec = _read_spec(_with_rope_scaling(config, scaling, factor))
    if isinstance(spec, ModelSpec) and not _is_rotary(spec):
        raise ModelError(
            f"A {spec.model_type} model has no rotary embedding to scale.",
            "Remove --rope-scaling and --rope-factor.",
        )
    if isinstance(spec, ModelSpec) and spec.index_limit is not None:
        raise ModelError(
            f"The context of a {spec.model_type} model cannot be extended, because the index of its"
            " keys is not supported.",
            "Remove --rope-scaling and --rope-factor.",
        )
    return msgspec.structs.replace(spec, max_positions=int(spec.max_positions * factor))


def _read_spec(config: dict[str, Any]) -> ModelSpec | GenericSpec:
    model_type = config["model_type"]
    reader = _find_reader(model_type)
    if reader is None:
        return _read_text_spec(config)
    spec = reader(config)
    if isinstance(spec, GenericSpec) and model_type in FAMILIES:
        return spec  # a variant of the family that cannot be described as a `ModelSpec` yet
    if not isinstance(spec, ModelSpec):
        raise ModelError(
            f"The architecture plugin for `{model_type}` returned {type(spec).__name__} instead of"
            " a ModelSpec."
        )
    return spec


def _read_text_spec(config: dict[str, Any]) -> ModelSpec | GenericSpec:
    """Read the spec of the text model in a model of an unknown `model_type`. The result is a
    `GenericSpec` if the architecture of the text model is unknown, too.
    """
    model_type = config["model_type"]
    spelled = next((name for name in FAMILIES if name.lower() == model_type.lower()), None)
    if spelled is not None:
        raise ModelError(
            f"`model_type` in config.json is `{model_type}`, but the architecture is called"
            f" `{spelled}`.",
            "Correct the spelling in the model's config.json.",
        )
    text = text_config_of(config)
    if text is None or text["model_type"] not in FAMILIES:
        return generic_spec(config)
    spec = _read_spec(text)
    return (
        with_outer_names(spec, model_type) if isinstance(spec, ModelSpec) else generic_spec(config)
    )


def _find_reader(model_type: str) -> Callable[[dict[str, Any]], object] | None:
    if model_type in FAMILIES:
        module = importlib.import_module(f"tgi.architectures.families.{FAMILIES[model_type]}")
    else:
        found = tuple(entry_points(group=ENTRY_POINT_GROUP, name=model_type))
        if not found:
            return None
        if len(found) > 1:
            packages = ", ".join(
                sorted(point.dist.name if point.dist else point.value for point in found)
            )
            raise ModelError(
                f"Several packages provide the architecture `{model_type}`: {packages}.",
                "Uninstall all but one.",
            )
        try:
            module = found[0].load()
        except (ImportError, AttributeError) as error:
            raise ModelError(
                f"The architecture plugin {found[0].value} for `{model_type}` cannot be imported:"
                f" {error}."
            ) from error
    reader: Callable[[dict[str, Any]], object] = module.spec
    return reader


def _with_rope_scaling(config: dict[str, Any], scaling: str, factor: float) -> dict[str, Any]:
    if scaling not in {"linear", "dynamic"}:
        raise ModelError(f"`--rope-scaling` must be linear or dynamic. Given: {scaling}.")
    if not 1.0 <= factor < float("inf"):
        raise ModelError(f"`--rope-factor` must be >= 1. Given: {factor}.")
    parameters = {"rope_type": scaling, "factor": factor}
    text = config.get("text_config")
    if isinstance(text, dict):
        return config | {"text_config": _replace_rope(text, parameters)}
    return _replace_rope(config, parameters)


def _replace_rope(config: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the config with other rope parameters.

    If each layer type has its own parameters, the parameters of full attention are replaced.
    """

    def kept(written: dict[str, Any]) -> dict[str, Any]:
        return {
            name: written[name]
            for name in ("rope_theta", "partial_rotary_factor")
            if name in written
        }

    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    full = written.get("full_attention")
    by_type = (
        written | {"full_attention": kept(full) | parameters} if isinstance(full, dict) else None
    )
    replaced = by_type or kept(written) | parameters
    return {name: value for name, value in config.items() if name != "rope_scaling"} | {
        "rope_parameters": replaced
    }


def _is_rotary(spec: ModelSpec) -> bool:
    return any(
        isinstance(mixer, LatentAttention)
        or (isinstance(mixer, Attention) and mixer.rope is not None)
        for mixer in spec.decoder.mixers
    )
