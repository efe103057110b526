"""The fallback for models that `ModelSpec` cannot describe. It runs the code of `transformers`.

The fallback keeps one cache object of `transformers` per sequence and computes the rows of a step
one after the other. The fallback is therefore slow. Its results are correct for every model whose
`generate` is correct, with any kind of attention or recurrent layer. Scheduling, sampling and
memory calculation are the same as for other models. Blocks of the cache are only used to limit the
memory. The index of a sequence in the cache group `state` identifies its cache object.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.utils.generic import ModelOutput
from transformers.utils.logging import disable_progress_bar

from tgi.architectures import GenericSpec
from tgi.backend import Limits, ModelError
from tgi.worker.parts import Progress
from tgi_torch.attention.paged import AttentionMetadata

__all__ = ["TransformersModel", "load_transformers_model"]

_CHECK_TOKENS = 6
# The limit is a fraction of the logits' standard deviation. Rounding errors are far below this
# limit. The error after the loss of a state is far above this limit.
_MAX_DEVIATION = 0.05


def load_transformers_model(
    spec: GenericSpec,
    dtype: torch.dtype,
    device: torch.device,
    path: Path,
    progress: Progress,
    *,
    trust_remote_code: bool,
) -> TransformersModel:
    """Build and check the model in `path`.

    Code from the checkpoint is executed only if `trust_remote_code` is set. Raises `ModelError`.
    """
    progress(0, 1)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    if trust_remote_code:
        _check_code_is_local(spec)
    try:
        config = AutoConfig.from_pretrained(
            path, trust_remote_code=trust_remote_code, local_files_only=True
        )
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (
        AttributeError,
        ImportError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise ModelError(
                f"The architecture `{spec.model_type}` needs code that comes with the checkpoint,"
                " and such code is not run.",
                "If you trust it, read it and use `--trust-remote-code`, with its commit as"
                " `--revision` for a hub model.",
            ) from error
        raise _refusal(spec, _first_line(error)) from error
    model, report = loaded
    _check_weights(path, report)
    fallback = TransformersModel(spec, model.to(device).eval())
    progress(1, 1)
    return fallback


@final
class TransformersModel:
    """A `tgi_torch.model.protocols.LoadedModel`, and after `with_cache` also a `Model`.

    `is_chunked` is true if a prompt may be computed in chunks. The constructor runs the model to
    determine this value.
    """

    def __init__(self, spec: GenericSpec, model: PreTrainedModel) -> None:
        self.spec = spec
        self._model = model
        self._num_blocks = self._block_size = 0
        self._caches: dict[int, DynamicCache] = {}
        self._cache_argument = "past_key_values"
        with torch.inference_mode():
            self._body, self.is_chunked = self._split_and_check()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and cache."""
        return self._model.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._model.device

    @property
    def num_sequences(self) -> int:
        """Number of sequences that have a cache object."""
        return len(self._caches)

    @property
    def num_blocks(self) -> int:
        """Number of blocks. Blocks are only used to limit the memory."""
        return self._num_blocks

    @property
    def block_size(self) -> int:
        """Number of tokens in a block."""
        return self._block_size

    def with_cache(self, num_blocks: int, block_size: int, limits: Limits) -> TransformersModel:
        """Set the number and size of the blocks.

        No memory is reserved. The cache object of a sequence grows with the sequence, up to the
        size of the sequence's blocks.
        """
        del limits
        self._num_blocks, self._block_size = num_blocks, block_size
        return self

    def close(self) -> None:
        """Release the cache objects of all sequences."""
        self._caches.clear()

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Do nothing, because blocks contain no data. Features that copy blocks are not
        negotiated.
        """

    def release_state(self, state: int) -> None:
        """Release the cache object of the sequence that used `state`."""
        self._caches.pop(state, None)

    def forward(
        self, token_ids: Tensor, metadata: AttentionMetadata, wanted: Tensor | None = None
    ) -> Tensor:
        """Compute the hidden vectors after the final norm for int64 [T], row by row.

        Returns [T, hidden], or only the rows with the indices `wanted`.
        """
        assert metadata.states is not None
        rows = zip(
            metadata.states.tolist(),
            torch.split(token_ids, list(metadata.query_lens)),
            metadata.query_lens,
            metadata.context_lens,
            strict=True,
        )
        parts = []
        for state, tokens, query_len, context_len in rows:
            if query_len == context_len:
                self._caches[state] = self._new_cache()
            parts.append(self._hidden(tokens, self._caches[state]))
        hidden = torch.cat(parts)
        return hidden if wanted is None else hidden.index_select(0, wanted)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits float32 [N, vocab] of hidden vectors [N, hidden].

        The logits include the model's own scaling or capping.
        """
        logits: Tensor = self._model(inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits
        return logits[0].float()

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=self._model.config)

    def _hidden(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        arguments: dict[str, Any] = {self._cache_argument: cache}
        hidden: Tensor = self._body(input_ids=tokens.unsqueeze(0), use_cache=True, **arguments)[0]
        return hidden[0]

    def _split_and_check(self) -> tuple[torch.nn.Module, bool]:
        """Separate the body from the model, and compare the two parts with the whole model."""
        model, tokens = (
            self._model,
            torch.arange(_CHECK_TOKENS, device=self._model.device) % self.spec.vocab_size,
        )
        name = model.base_model_prefix
        body = getattr(model, name, None)
        if not isinstance(body, torch.nn.Module) or body is model:
            raise _refusal(
                self.spec, "its modelling code does not separate the layers from the head"
            )
        outputs: list[ModelOutput] = []
        hook = body.register_forward_hook(lambda _, __, output: outputs.append(output))
        expected = model(input_ids=tokens.unsqueeze(0), use_cache=False).logits[0].float()
        hook.remove()
        if not outputs or not isinstance(outputs[0], ModelOutput):
            raise _refusal(
                self.spec, "its modelling code does not separate the layers from the head"
            )
        setattr(model, name, _Replay(type(outputs[0])))
        self._body = body
        if "cache_params" in inspect.signature(body.forward).parameters:
            self._cache_argument = "cache_params"
        one_by_one, in_chunks = (
            self._deviation(tokens, expected, size) for size in (1, _CHECK_TOKENS // 2)
        )
        if one_by_one > _MAX_DEVIATION:
            raise _refusal(
                self.spec,
                "its modelling code does not keep a sequence's state in a cache that can be"
                " passed on",
            )
        return body, in_chunks <= _MAX_DEVIATION

    def _deviation(self, tokens: Tensor, expected: Tensor, size: int) -> float:
        """Return the largest difference from the logits of the whole model if `tokens` are computed
        in chunks.

        `size` is the number of tokens in a chunk. The difference is divided by the standard
        deviation of the logits. The result is infinite if the model cannot run with chunks.
        """
        cache = self._new_cache()
        try:
            hidden = torch.cat([self._hidden(part, cache) for part in torch.split(tokens, size)])
            logits = self.logits(hidden)
        except (
            AttributeError,
            IndexError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ):
            return float("inf")
        return float((logits - expected).abs().max() / expected.std())


@final
class _Replay(torch.nn.Module):
    """A replacement of the body that returns its input vectors.

    With this replacement the model computes only its head.
    """

    def __init__(self, output_type: type[ModelOutput]) -> None:
        super().__init__()
        self._output_type = output_type

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> ModelOutput:
        """Return `inputs_embeds` in the output type of the body."""
        return self._output_type(last_hidden_state=inputs_embeds)


def _check_code_is_local(spec: GenericSpec) -> None:
    """Raise `ModelError` if the code is in another repository, because the revision of that
    repository is not fixed.
    """
    entries = spec.config.get("auto_map")
    values = (
        itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in entries.values())
        if entries
        else ()
    )
    elsewhere = sorted(
        {value.partition("--")[0] for value in values if isinstance(value, str) and "--" in value}
    )
    if elsewhere:
        raise ModelError(
            f"The config takes code from another repository, {', '.join(elsewhere)}, which has no"
            " fixed revision.",
            "Copy the code to the folder of the weights and remove the repository's name from"
            " `auto_map`.",
        )


def _check_weights(path: Path, report: Mapping[str, Any]) -> None:
    for key, problem in (
        ("missing_keys", "is missing"),
        ("mismatched_keys", "has a different shape than the config requires"),
    ):
        names = sorted(
            str(item[0] if isinstance(item, tuple) else item) for item in report.get(key, ())
        )
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ModelError(
                f"{path}: tensor `{names[0]}` {problem}{more}.",
                "Check that config.json belongs to these weights.",
            )


def _refusal(spec: GenericSpec, reason: str) -> ModelError:
    return ModelError(
        f"transformers {transformers.__version__} cannot run the architecture `{spec.model_type}`:"
        f" {reason.rstrip('.')}.",
        "Choose another model, or another version of transformers.",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return " ".join(text.split())[:300] if text else type(error).__name__
