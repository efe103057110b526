"""From `--model-id` to a local folder: a directory as it is, a hub id through the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tgi.config import Environment, ServeOptions
from tgi.errors import ModelError

__all__ = ["ModelFiles", "find_model"]

_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
"""Weights, configs and tokenizers; never pickled weights, and code only of a commit that the user
trusts.
"""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_INFO_SECONDS = 10.0
_UNAUTHORIZED = 401  # a hub tells nobody but its members which private models it has


@final
@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine. `revision` is the hub's commit and `pipeline_tag` its task, where it
    came from there.

    `is_pinned` tells that nobody but the user can change what the files are: they lie in a folder,
    or a commit was named.
    """

    model_id: str
    path: Path
    revision: str | None = None
    pipeline_tag: str | None = None
    is_pinned: bool = True


def find_model(
    options: ServeOptions, environment: Environment, log: Callable[[str], None]
) -> ModelFiles:
    """Find or fetch the model; without one, the demo. Raises `ModelError` with what is wrong and
    what to do.
    """
    if options.model_id is None:
        from tgi.demo import demo_model_path  # noqa: PLC0415 - only when it is wanted

        log("No model was named: serving the demo model.")
        return ModelFiles("tgi/demo", demo_model_path(log))
    if options.weights_cache_override is not None:
        return _override(options.model_id, Path(options.weights_cache_override).expanduser())
    path = Path(options.model_id).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The folder `{path}` holds no config.json.",
                "Name a folder in Hugging Face format.",
            )
        return ModelFiles(options.model_id, path)
    if path.exists():
        raise ModelError(
            f"`{path}` is a file.", "Name the folder that holds config.json and the weights."
        )
    if _is_path(options.model_id):
        raise ModelError(
            f"The folder `{path}` does not exist.",
            "Name an existing folder, or a hub id like `owner/name`.",
        )
    return _fetch(options, environment, options.model_id, log)


def _override(model_id: str, folder: Path) -> ModelFiles:
    """The folder that stands for the model, under the model's name."""
    for name in ("config.json", "*.safetensors"):
        if not any(folder.glob(name)):
            raise ModelError(
                f"The folder `{folder}` of `--weights-cache-override` holds no {name}.",
                "Copy the whole model there: config, tokenizer and weights.",
            )
    return ModelFiles(model_id, folder)


def _is_path(model_id: str) -> bool:
    return (
        model_id.startswith(("/", ".", "~"))
        or model_id.count("/") > 1
        or model_id.endswith("/")
        or not model_id.strip()
    )


def _fetch(
    options: ServeOptions, environment: Environment, model_id: str, log: Callable[[str], None]
) -> ModelFiles:
    from huggingface_hub import (  # noqa: PLC0415
        snapshot_download,
    )
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log(f"Fetching `{model_id}` from the hub, or from its cache.")
    is_pinned = _COMMIT.fullmatch(options.revision or "") is not None
    code = ["*.py"] if options.trust_remote_code and is_pinned else []
    try:
        snapshot = snapshot_download(
            model_id,
            revision=options.revision,
            cache_dir=options.huggingface_hub_cache,
            token=environment.hf_token,
            local_files_only=environment.hf_hub_offline,
            allow_patterns=[*_PATTERNS, *code],
        )
    except HFValidationError as error:
        raise ModelError(
            f"`{model_id}` is neither a folder nor a hub id.",
            "Name a folder, or an id like `owner/name`.",
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"The model `{model_id}` is gated and this token may not read it.",
            "Accept its terms, then set HF_TOKEN.",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"The model `{model_id}` has no revision `{options.revision}`.", "Check `--revision`."
        ) from error
    except RepositoryNotFoundError as error:
        raise _no_such_model(model_id) from error
    except LocalEntryNotFoundError as error:
        reason = (
            "HF_HUB_OFFLINE is set" if environment.hf_hub_offline else "the hub cannot be reached"
        )
        raise ModelError(
            f"The model `{model_id}` is not a folder and not in the cache, and {reason}.",
            "Name an existing folder, or connect this machine to the hub.",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == _UNAUTHORIZED:
            raise _no_such_model(model_id) from error
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"Fetching `{model_id}` failed: {line}", "Try again, or name a local folder."
        ) from error
    path = Path(str(snapshot))
    if not (path / "config.json").is_file():
        raise ModelError(
            f"The hub model `{model_id}` holds no config.json.",
            "Name a model in Hugging Face format.",
        )
    revision = path.name if path.parent.name == "snapshots" else None
    return ModelFiles(
        model_id, path, revision, _pipeline_tag(environment, model_id, revision), is_pinned
    )


def _no_such_model(model_id: str) -> ModelError:
    return ModelError(
        f"There is no folder and no hub model `{model_id}`.",
        "Check the name; a private model needs HF_TOKEN.",
    )


def _pipeline_tag(environment: Environment, model_id: str, revision: str | None) -> str | None:
    """The task that the hub files the model under; None where the hub does not answer, for serving
    does not depend on it.
    """
    if environment.hf_hub_offline:
        return None
    from huggingface_hub import HfApi  # noqa: PLC0415 - as above
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        info = HfApi(token=environment.hf_token).model_info(
            model_id, revision=revision, timeout=_INFO_SECONDS
        )
    except (HfHubHTTPError, OSError):
        return None
    tag: str | None = info.pipeline_tag
    return tag
