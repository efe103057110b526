"""Recognizes checkpoint tensors that are not parameters of the model: unneeded buffers and training
state, and heads for other tasks. The module also removes the name prefixes of wrappers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

from tgi.errors import ModelError

__all__ = ["HARMLESS", "foreign_checkpoint", "is_harmless", "plain_name"]

HARMLESS: Mapping[str, str] = MappingProxyType(
    {
        "v_head.*": "value head of trl",
        "*._extra_state": "state of Transformer Engine",
        "*attn.[kv]_scale": "scale of a quantized cache",
        "*attention.[kv]_scale": "scale of a quantized cache",
        "*attn.kv_scale": "scale of a quantized cache",
        "*position_ids": "position numbers",
        "*.inv_freq": "frequencies of the rotary embedding",
        "*rotary*.cos_cached": "table of the rotary embedding",
        "*rotary*.sin_cached": "table of the rotary embedding",
    }
)
"""Patterns of tensors that are not needed to run a model, and the content of these tensors."""

_COMPILED = "_orig_mod."  # torch.compile inserts this prefix into the names of a module
_WRAPPERS = ("module.", "base_model.model.")  # prefixes of DistributedDataParallel and peft

_FOREIGN = {
    "*lora_[AB].*": (
        "unmerged LoRA matrices",
        "Merge the adapter into its base model and save the result (peft: merge_and_unload).",
    ),
    "score.*": ("the head of a classifier or a reward model", ""),
    "classifier.*": ("the head of a classifier", ""),
    "classification_head.*": ("the head of a classifier", ""),
    "qa_outputs.*": ("the head of a model for question answering", ""),
    "reward_head.*": ("the head of a reward model", ""),
    "rm_head.*": ("the head of a reward model", ""),
    "cls.*": ("the head of an encoder", ""),
    "*pooler.dense.*": ("the pooling layer of an encoder", ""),
}
_GENERATES_TEXT = "This server generates text: name a checkpoint with a language model head."


def plain_name(name: str) -> str:
    """Return the name of a tensor without the prefixes of wrappers."""
    name = name.replace(_COMPILED, "")
    while prefix := next((prefix for prefix in _WRAPPERS if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def is_harmless(name: str) -> bool:
    """Whether the model runs without the tensor of this plain name."""
    return any(fnmatchcase(name, pattern) for pattern in HARMLESS)


def foreign_checkpoint(names: Iterable[str]) -> ModelError | None:
    """Return an error if one of the plain names belongs to a model for another task, or to an
    adapter.
    """
    for name in names:
        for pattern, (content, remedy) in _FOREIGN.items():
            if fnmatchcase(name, pattern):
                return ModelError(
                    f"The checkpoint contains {content} (`{name}`).", remedy or _GENERATES_TEXT
                )
    return None
