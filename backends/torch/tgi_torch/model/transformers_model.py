"""The fallback: a family that the grammar does not have runs with the modelling code of
`transformers`.

It keeps one cache object of that library per sequence and computes the rows of a step one after the
other, so it is slow, but right for every model whose `generate` is: attention of any kind,
recurrent layers, and mixtures of both. Scheduling, sampling and the memory arithmetic are those of
every model. Blocks only count memory; a sequence's place in the cache group `state` names its cache
object.
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
_MAX_DEVIATION = 0.05  # of the logits' spread: rounding stays far below, a lost state far above


def load_transformers_model(
    spec: GenericSpec,
    dtype: torch.dtype,
    device: torch.device,
    path: Path,
    progress: Progress,
    *,
    trust_remote_code: bool,
) -> TransformersModel:
    """Build and check the model in `path`. Code of the checkpoint runs only with
    `trust_remote_code`. Raises `ModelError`.
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
    """`tgi_torch.model.protocols.LoadedModel` and, once the cache is sized,
    `tgi_torch.model.protocols.Model`.

    `is_chunked` tells whether a prompt may be computed in parts; it was tried with this very model.
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
        """Of weights and cache."""
        return self._model.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.device

    @property
    def num_sequences(self) -> int:
        """Sequences whose cache is held."""
        return len(self._caches)

    @property
    def num_blocks(self) -> int:
        """Blocks that count the memory of the sequences."""
        return self._num_blocks

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self._block_size

    def with_cache(self, num_blocks: int, block_size: int, limits: Limits) -> TransformersModel:
        """Nothing is reserved: the caches grow with their sequences, within the blocks these were
        given.
        """
        del limits
        self._num_blocks, self._block_size = num_blocks, block_size
        return self

    def close(self) -> None:
        """Let go of the sequences' caches."""
        self._caches.clear()

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Blocks hold nothing that could be copied; no feature that needs it is agreed."""

    def release_state(self, state: int) -> None:
        """The sequence of `state` is gone, and with it its cache."""
        self._caches.pop(state, None)

    def forward(
        self, token_ids: Tensor, metadata: AttentionMetadata, wanted: Tensor | None = None
    ) -> Tensor:
        """Hidden vectors after the final norm for int64 [T], row by row, of all tokens or of those
        `wanted`.
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
        """Logits float32 [N, vocab] of hidden vectors [N, hidden], with whatever the model does to
        them at the end.
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
        """Take the body out of the model, and hold the parts against the whole."""
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
        """Largest difference to the whole, over the spread of the logits, if `tokens` come in parts
        of `size`.
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
    """Stands where the body was and hands on the hidden vectors it is given, so that the model
    computes its head alone.
    """

    def __init__(self, output_type: type[ModelOutput]) -> None:
        super().__init__()
        self._output_type = output_type

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> ModelOutput:
        """The output of the body's own type."""
        return self._output_type(last_hidden_state=inputs_embeds)


def _check_code_is_local(spec: GenericSpec) -> None:
    """Code of another repository has no pinned revision."""
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
            f"The config takes code from another repository, {', '.join(elsewhere)}, whose revision"
            " nobody pinned.",
            "Copy the code beside the weights and remove the repository's name from `auto_map`.",
        )


def _check_weights(path: Path, report: Mapping[str, Any]) -> None:
    for key, problem in (
        ("missing_keys", "is missing"),
        ("mismatched_keys", "has another shape than the config asks for"),
    ):
        names = sorted(
            str(item[0] if isinstance(item, tuple) else item) for item in report.get(key, ())
        )
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ModelError(
                f"{path}: tensor `{names[0]}` {problem}{more}.",
                "Check that config.json and weights belong together.",
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
