"""Loads the model of an unknown architecture with `transformers`, or only checks if it can be
loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
)
from transformers.utils.logging import disable_progress_bar

from tgi.architectures import GenericSpec
from tgi.backend import ModelError
from tgi.worker.parts import Progress
from tgi_torch.model.transformers_model import (
    CACHE_ARGUMENTS,
    RUNNING_ERRORS,
    TransformersModel,
    find_body,
    first_line,
    no_cache,
    refusal,
)

__all__ = ["check_transformers_model", "load_transformers_model"]

_LOADING_ERRORS = (*RUNNING_ERRORS, ImportError, OSError)


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
    with _refusing(spec, trust_remote_code=trust_remote_code):
        config = _read_config(path, trust_remote_code=trust_remote_code)
        _check_class(spec, config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    model, report = loaded
    _check_weights(path, report)
    fallback = TransformersModel(spec, model.to(device).eval())
    progress(1, 1)
    return fallback


def check_transformers_model(spec: GenericSpec, path: Path, *, trust_remote_code: bool) -> None:
    """Build the model in `path` on the meta device, without weights and without memory for them.
    Raises the `ModelError` with which `load_transformers_model` would reject the model's config or
    its modelling code.
    """
    if trust_remote_code:
        _check_code_is_local(spec)
    with _refusing(spec, trust_remote_code=trust_remote_code), torch.device("meta"):
        config = _read_config(path, trust_remote_code=trust_remote_code)
        _check_class(spec, config)
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=trust_remote_code
        )
        _, body = find_body(spec, model)
        with suppress(*RUNNING_ERRORS), torch.inference_mode():
            # The code of some models does not run without data. Those are checked when they load.
            output = body(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=True)
            if not any(output.get(name) is not None for name in CACHE_ARGUMENTS):
                raise refusal(spec, no_cache(body))


def _read_config(path: Path, *, trust_remote_code: bool) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        path, trust_remote_code=trust_remote_code, local_files_only=True
    )
    return config


def _check_class(spec: GenericSpec, config: PreTrainedConfig) -> None:
    """Raise `ModelError` if `transformers` has no class that generates text with this config."""
    has_own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or has_own_code:
        return
    text = config.get_text_config()
    inner = f" (text model `{text.model_type}`)" if text is not config else ""
    raise refusal(
        spec,
        f"it has no text-only generation class for `{type(config).__name__}`{inner}",
    )


@contextmanager
def _refusing(spec: GenericSpec, *, trust_remote_code: bool) -> Iterator[None]:
    """Convert the errors of `transformers` and of the model's own code to a `ModelError` with the
    first line of the error.
    """
    try:
        yield
    except _LOADING_ERRORS as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise ModelError(
                f"The architecture `{spec.model_type}` needs code that comes with the checkpoint,"
                " and such code is not run.",
                "Read the code. If you trust the code, use `--trust-remote-code`. For a hub model,"
                " also set `--revision` to the commit that you read.",
            ) from error
        raise refusal(spec, first_line(error)) from error


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
