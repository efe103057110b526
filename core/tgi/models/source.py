"""The records `ModelSource` and `Model`, which describe a model on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import SAFETENSORS, ModelFormat
from tgi.checkpoints.quantized_tensor import CheckpointFormat

__all__ = ["Model", "ModelSource"]


_FAMILIES_THAT_SCORE_PROMPTS = frozenset({"bloom", "mamba", "mpt", "opt"})


@final
@dataclass(frozen=True)
class ModelSource:
    """The files of a model on this machine.

    `path` is a folder in Hugging Face format, or the model file of a single-file format.
    `revision` is the commit on the hub, and `pipeline_tag` is the task that the hub lists for the
    model. Both fields are None for a local model. `is_pinned` is True if the files are local or the
    user specified a commit, so that the owner of the repository cannot change the files.
    """

    model_id: str
    path: Path
    model_format: ModelFormat = SAFETENSORS
    revision: str | None = None
    pipeline_tag: str | None = None
    is_pinned: bool = True

    @property
    def folder(self) -> Path:
        """The folder that contains the files of the model."""
        return self.path.parent if self.model_format.is_single_file else self.path


@final
@dataclass(frozen=True)
class Model:
    """A model and its description. `tokenizer_folder` is the expected folder of the tokenizer. The
    tokenizer may not exist. `notices` are lines for the log about the checkpoint. `quantization` is
    the format of a quantized checkpoint.
    """

    source: ModelSource
    spec: ModelSpec | GenericSpec
    tokenizer_folder: Path
    notices: tuple[str, ...] = ()
    quantization: CheckpointFormat | None = None

    @property
    def scores_prompts(self) -> bool:
        """Whether TGI returned the log probabilities of prompts for this model without the option
        `--enable-prefill-logprobs`. TGI did so for the families without flash attention.
        """
        return self.spec.model_type in _FAMILIES_THAT_SCORE_PROMPTS
