"""From `--model-id` to a local folder: a directory as it is, a hub id through the hub's cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tgi.config import Environment, ServeOptions
from tgi.errors import ModelError

__all__ = ["ModelFiles", "find_model"]

_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
"""Weights, configs and tokenizers; never pickled weights, never code."""


@final
@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine. `revision` is the hub's commit, where it came from there."""

    model_id: str
    path: Path
    revision: str | None = None


def find_model(options: ServeOptions, environment: Environment, log: Callable[[str], None]) -> ModelFiles:
    """Find or fetch the model; without one, the demo. Raises `ModelError` with what is wrong and what to do."""
    if options.model_id is None:
        from tgi.demo import demo_model_path  # noqa: PLC0415 - makes a model if there is none: only when it is wanted

        log("No model was named: serving the demo model.")
        return ModelFiles("tgi/demo", demo_model_path(log))
    path = Path(options.model_id).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"The folder `{path}` holds no config.json.", "Name a folder in Hugging Face format.")
        return ModelFiles(options.model_id, path)
    if path.exists():
        raise ModelError(f"`{path}` is a file.", "Name the folder that holds config.json and the weights.")
    if _is_path(options.model_id):
        raise ModelError(f"The folder `{path}` does not exist.", "Name an existing folder, or a hub id like `owner/name`.")
    return _fetch(options, environment, options.model_id, log)


def _is_path(model_id: str) -> bool:
    return model_id.startswith(("/", ".", "~")) or model_id.count("/") > 1 or model_id.endswith("/") or not model_id.strip()


def _fetch(options: ServeOptions, environment: Environment, model_id: str, log: Callable[[str], None]) -> ModelFiles:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, and a local model needs none of it
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log(f"Fetching `{model_id}` from the hub, or from its cache.")
    try:
        snapshot = snapshot_download(
            model_id,
            revision=options.revision,
            cache_dir=options.huggingface_hub_cache,
            token=environment.hf_token,
            local_files_only=environment.hf_hub_offline,
            allow_patterns=_PATTERNS,
        )
    except HFValidationError as error:
        raise ModelError(
            f"`{model_id}` is neither a folder nor a hub id.", "Name a folder, or an id like `owner/name`."
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"The model `{model_id}` is gated and this token may not read it.", "Accept its terms, then set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"The model `{model_id}` has no revision `{options.revision}`.", "Check `--revision`.") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"There is no folder and no hub model `{model_id}`.", "Check the name; a private model needs HF_TOKEN."
        ) from error
    except LocalEntryNotFoundError as error:
        reason = "HF_HUB_OFFLINE is set" if environment.hf_hub_offline else "the hub cannot be reached"
        raise ModelError(
            f"The model `{model_id}` is not a folder and not in the cache, and {reason}.",
            "Name an existing folder, or connect this machine to the hub.",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"Fetching `{model_id}` failed: {line}", "Try again, or name a local folder.") from error
    path = Path(str(snapshot))
    if not (path / "config.json").is_file():
        raise ModelError(f"The hub model `{model_id}` holds no config.json.", "Name a model in Hugging Face format.")
    return ModelFiles(model_id, path, path.name if path.parent.name == "snapshots" else None)
