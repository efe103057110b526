"""Converts the metadata of a GGUF file to the config.json of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, final

import numpy as np

from tgi.architectures.file_reader import shown
from tgi.architectures.rope import inverse_frequencies
from tgi.architectures.spec import Llama3Scaling, Rope
from tgi.checkpoints.gguf.container import GgufHeader, GgufTensor, map_file
from tgi.checkpoints.gguf.families import ARCHITECTURE_KEY, family_of
from tgi.errors import ModelError

__all__ = ["config_of"]

Config = dict[str, Any]

_DEFAULT_THETA = 10_000.0
_GEMMA2_WINDOW = 4096  # if a gemma2 file has no window
# Models with these numbers of layers scale the scores of attention by the hidden size per head.
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
_MAX_FREQUENCY_ERROR = 1e-4  # relative; the factors are float32


def config_of(header: GgufHeader) -> Config:
    """Return the config with the field names of Hugging Face. Raises `ModelError` if the
    architecture is unknown, or with the key if a value is missing or wrong.
    """
    return _Source(header).config()


@final
class _Source:
    """The metadata of one file, with the keys of its architecture."""

    def __init__(self, header: GgufHeader) -> None:
        self._header = header
        self._metadata = header.metadata
        self._architecture = header.metadata.text(ARCHITECTURE_KEY)

    def config(self) -> Config:
        """Return the fields of all architectures, and those of the file's own architecture."""
        family, names = family_of(self._header), self._header.tensors
        heads = self.integer("attention.head_count")
        config = {
            "model_type": family.model_type,
            "vocab_size": self._tensor("token_embd.weight").shape[0],
            "hidden_size": self.integer("embedding_length"),
            "intermediate_size": self.integer("feed_forward_length"),
            "num_hidden_layers": self.integer("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self.integer("attention.head_count_kv", heads),
            "head_dim": self._head_dim(heads),
            "max_position_embeddings": self.integer("context_length"),
            "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon"),
            "rope_theta": self.number("rope.freq_base", _DEFAULT_THETA),
            "tie_word_embeddings": "output.weight" not in names,
            "attention_bias": "blk.0.attn_q.bias" in names and family.model_type != "qwen2",
            "mlp_bias": "blk.0.ffn_up.bias" in names,
        }
        scaling = self._rope_scaling(config)
        if scaling is not None:
            config["rope_scaling"] = scaling
        for field in ("bos", "eos"):
            key = f"tokenizer.ggml.{field}_token_id"
            if key in self._metadata:
                config[f"{field}_token_id"] = self._metadata.integer(key, minimum=0)
        own_fields = _OWN_FIELDS.get(self._architecture)
        return config if own_fields is None else config | own_fields(self, config)

    def has(self, key: str) -> bool:
        """Whether the architecture's key is present."""
        return f"{self._architecture}.{key}" in self._metadata

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        """Return the integer of a key of the architecture."""
        return self._metadata.integer(f"{self._architecture}.{key}", default, minimum)

    def number(self, key: str, default: float | None = None) -> float:
        """Return the number of a key of the architecture."""
        return self._metadata.number(f"{self._architecture}.{key}", default)

    def text(self, key: str, default: str) -> str:
        """Return the string of a key of the architecture."""
        return self._metadata.text(f"{self._architecture}.{key}", default)

    def factors(self, name: str) -> list[float] | None:
        """Return the numbers of a float32 tensor, or None if there is no such tensor."""
        if name not in self._header.tensors:
            return None
        tensor = self._tensor(name)
        if tensor.block_type.name != "F32" or len(tensor.shape) != 1:
            raise self._error(f"tensor `{name}` must be a vector of the type F32")
        with map_file(self._header.path) as data:
            part = data[tensor.start : tensor.start + tensor.num_bytes]
        return [float(value) for value in np.frombuffer(part, "<f4")]

    def _tensor(self, name: str) -> GgufTensor:
        if name not in self._header.tensors:
            raise self._error(f"the file has no tensor `{name}`")
        return self._header.tensors[name]

    def _head_dim(self, heads: int) -> int:
        hidden = self.integer("embedding_length")
        if self.has("attention.key_length"):
            size = self.integer("attention.key_length")
        elif hidden % heads:
            raise self._error(f"{heads} attention heads do not divide the hidden size {hidden}")
        else:
            size = hidden // heads
        if self.integer("attention.value_length", size) != size:
            raise self._error("keys and values have different sizes, which is not supported")
        return size

    def _rope_scaling(self, config: Config) -> Config | None:
        """Return the field `rope_scaling`, or None if the frequencies are not scaled."""
        frequencies = self.factors("rope_freqs.weight")
        if frequencies is not None:
            return _scaling_of(frequencies, config)
        kind = self.text("rope.scaling.type", "linear")  # files of 2023 have only the factor
        factor = self.number("rope.scaling.factor", self.number("rope.scale_linear", 1.0))
        original = self.integer(
            "rope.scaling.original_context_length", config["max_position_embeddings"]
        )
        match kind:
            case "linear":
                return {"rope_type": "linear", "factor": factor} if factor != 1 else None
            case "yarn":
                return {
                    "rope_type": "yarn",
                    "factor": factor,
                    "original_max_position_embeddings": original,
                }
            case "none" | "longrope":
                return None  # the factors of longrope are tensors
        raise self._error(f"the scaling `{shown(kind)}` of the rotary embedding is unknown")

    def _error(self, cause: str) -> ModelError:
        return ModelError(
            f"{shown(self._header.path)}: {cause}.", "Download another file of this model."
        )


def _scaling_of(factors: list[float], config: Config) -> Config | None:
    """Return the scaling that divides each frequency by a factor. Factors of Llama 3 are recognized
    by their values. Other factors are listed in the config.
    """
    if all(factor == 1 for factor in factors):
        return None
    # The values of Llama 3.1, 3.2 and 3.3. The factor differs.
    scaling = Llama3Scaling(
        factor=max(factors), low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    )
    rope = Rope(theta=config["rope_theta"], rotary_dim=2 * len(factors))
    plain, _ = inverse_frequencies(rope, 1)
    llama3, _ = inverse_frequencies(
        Rope(theta=rope.theta, rotary_dim=rope.rotary_dim, scaling=scaling), 1
    )
    if np.allclose(plain / np.array(factors), llama3, rtol=_MAX_FREQUENCY_ERROR, atol=0):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config["max_position_embeddings"],
    }


def _gemma(source: _Source, config: Config) -> Config:
    return {"hidden_activation": "gelu_pytorch_tanh"}


def _gemma2(source: _Source, config: Config) -> Config:
    return {
        **_gemma(source, config),
        "query_pre_attn_scalar": _score_size(config, "gemma2"),
        "sliding_window": source.integer("attention.sliding_window", _GEMMA2_WINDOW),
        "attn_logit_softcapping": source.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": source.number("final_logit_softcapping", 30.0),
    }


def _gemma3(source: _Source, config: Config) -> Config:
    window = source.integer("attention.sliding_window", 0, minimum=0)
    layers = config["num_hidden_layers"]
    return {
        **_gemma(source, config),
        "query_pre_attn_scalar": _score_size(config, "gemma3"),
        "rope_local_base_freq": source.number("rope.freq_base_swa", _DEFAULT_THETA),
        **({"sliding_window": window} if window else {"layer_types": ["full_attention"] * layers}),
        **(
            {"final_logit_softcapping": source.number("final_logit_softcapping")}
            if source.has("final_logit_softcapping")
            else {}
        ),
    }


def _score_size(config: Config, architecture: str) -> int:
    """Return the size by whose square root the scores are divided."""
    if config["num_hidden_layers"] == _GEMMA_27B_LAYERS[architecture]:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _llama(source: _Source, config: Config) -> Config:
    """Return the fields of mixtral, which llama.cpp also calls `llama`."""
    if config["model_type"] == "llama":
        return {}
    return {
        "num_local_experts": source.integer("expert_count"),
        "num_experts_per_tok": source.integer("expert_used_count"),
    }


def _phi3(source: _Source, config: Config) -> Config:
    window = source.integer("attention.sliding_window", 0, minimum=0)
    fields = {
        "sliding_window": window or None,
        "partial_rotary_factor": source.integer("rope.dimension_count", config["head_dim"])
        / config["head_dim"],
    }
    short = source.factors("rope_factors_short.weight")
    long = source.factors("rope_factors_long.weight")
    if short is None or long is None:
        return fields
    original = source.integer(
        "rope.scaling.original_context_length", config["max_position_embeddings"]
    )
    scaling: Config = {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": original,
    }
    if source.has("rope.scaling.attn_factor"):
        scaling["attention_factor"] = source.number("rope.scaling.attn_factor")
    return fields | {"rope_scaling": scaling}


def _qwen3_moe(source: _Source, config: Config) -> Config:
    return {
        "moe_intermediate_size": source.integer("expert_feed_forward_length"),
        "num_experts": source.integer("expert_count"),
        "num_experts_per_tok": source.integer("expert_used_count"),
        "norm_topk_prob": True,  # as llama.cpp computes every model of this architecture
    }


_OWN_FIELDS: Mapping[str, Callable[[_Source, Config], Config]] = MappingProxyType(
    {
        "gemma": _gemma,
        "gemma2": _gemma2,
        "gemma3": _gemma3,
        "llama": _llama,
        "phi3": _phi3,
        "qwen3moe": _qwen3_moe,
    }
)
"""Functions that return the fields of one architecture only."""
