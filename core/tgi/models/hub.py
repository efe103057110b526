"""Downloads the required files of a model from the hub to the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from tgi.backend import ModelFormat
from tgi.config import Environment, ServeOptions
from tgi.errors import ModelError
from tgi.models.formats import FoundWeights, ReadableFormats
from tgi.models.local import FolderNames, find_in_folder, only_file
from tgi.models.source import ModelSource

__all__ = ["HubModel", "fetch_model"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_INFO_SECONDS = 10.0
_UNAUTHORIZED = 401  # The hub also returns this status if the model does not exist.


@final
@dataclass(frozen=True)
class HubModel:
    """A repository on the hub. For a single-file format, `file` is the path of the model file in
    the repository. `file` is empty if the user did not specify a file.
    """

    model_id: str
    repository: str
    file: str = ""


@final
@dataclass(frozen=True)
class _Listing:
    """The files and the task of a repository, as reported by the hub."""

    files: tuple[str, ...]
    pipeline_tag: str | None


@final
@dataclass(frozen=True)
class _Request:
    """The files to download. `file` is the model file in a single-file format. `file` is empty if
    the model is a folder, or if the files of the repository are unknown.
    """

    patterns: tuple[str, ...]
    file: str = ""
    model_format: ModelFormat | None = None


def fetch_model(
    model: HubModel,
    options: ServeOptions,
    environment: Environment,
    readable: ReadableFormats,
    log: Callable[[str], None],
) -> ModelSource:
    """Download the model in the format that the backend prefers, or find it in the cache. Raises
    `ModelError` if the model cannot be downloaded.

    The format is chosen before the download, from the list of the files in the repository.
    """
    log(f"Fetching `{model.model_id}` from the hub, or from its cache.")
    listing = _list_files(model, options, environment)
    request = _choose_files(model, listing, readable)
    is_pinned = _COMMIT.fullmatch(options.revision or "") is not None
    # Pickled weights are never downloaded. Code is downloaded only if the user specified a commit.
    code = ("*.py",) if options.trust_remote_code and is_pinned else ()
    folder = _fetch(model, options, environment, (*request.patterns, *code))
    if request.file and request.model_format is not None:
        source = ModelSource(model.model_id, folder / request.file, request.model_format)
        if not source.path.is_file():
            raise _no_such_file(model)
    else:
        names = FolderNames(
            f"The hub model `{model.model_id}`", "Name a model in Hugging Face format."
        )
        source = find_in_folder(model.model_id, folder, readable, names)
    return replace(
        source,
        revision=folder.name if folder.parent.name == "snapshots" else None,
        pipeline_tag=None if listing is None else listing.pipeline_tag,
        is_pinned=is_pinned,
    )


def _choose_files(model: HubModel, listing: _Listing | None, readable: ReadableFormats) -> _Request:
    """Choose the files of the repository to download. Raises `ModelError` if the repository has no
    suitable file.
    """
    if model.file:
        model_format = readable.recognize(model.file)
        if model_format is None or (listing is not None and model.file not in listing.files):
            raise _no_such_file(model)
        patterns = readable.patterns(model_format)
        return _Request((*patterns, model.file), model.file, model_format)
    found = None if listing is None else readable.find_weights(listing.files)
    if found is None:
        model_format = readable.formats[0]
        return _Request((*readable.patterns(model_format), *model_format.patterns))
    if not found.is_readable:
        raise _unreadable(model, found, readable)
    patterns = readable.patterns(found.model_format)
    if not found.model_format.is_single_file:
        return _Request((*patterns, *found.model_format.patterns))
    file = only_file(found, f"The hub model `{model.model_id}`")
    return _Request((*patterns, file), file, found.model_format)


def _list_files(
    model: HubModel, options: ServeOptions, environment: Environment
) -> _Listing | None:
    """List the files of the repository. Returns None if the hub does not return the list. In this
    case the download reports the error.
    """
    if environment.hf_hub_offline:
        return None
    from huggingface_hub import HfApi  # noqa: PLC0415 - importing it takes a second
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    no_response: tuple[type[Exception], ...] = (*_http_errors(), HFValidationError, OSError)
    try:
        info = HfApi(token=environment.hf_token).model_info(
            model.repository, revision=options.revision, timeout=_INFO_SECONDS
        )
    except no_response:
        return None
    files = tuple(sibling.rfilename for sibling in info.siblings or ())
    tag: str | None = info.pipeline_tag
    return _Listing(files, tag)


def _http_errors() -> tuple[type[Exception], ...]:
    """Return the classes of all errors of the hub's client. The bases of the client's error include
    the base of all errors of its HTTP library, which differs between versions of the client.
    """
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - see `_list_files`

    return tuple(
        base
        for base in HfHubHTTPError.__mro__
        if issubclass(base, Exception) and base is not Exception
    )


def _download(model_id: str, *, is_offline: bool, **arguments: Any) -> Path:  # noqa: ANN401
    """Download the files, or find them in the cache if the connection to the hub fails. The
    arguments and the errors are those of `snapshot_download`.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - see `_list_files`
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        return Path(snapshot_download(model_id, local_files_only=is_offline, **arguments))
    except (HfHubHTTPError, OSError):
        raise
    except _http_errors():
        return Path(snapshot_download(model_id, local_files_only=True, **arguments))


def _fetch(
    model: HubModel, options: ServeOptions, environment: Environment, patterns: tuple[str, ...]
) -> Path:
    """Download the files that match `patterns`. Returns the folder of these files in the cache.
    Raises `ModelError` if the download fails.
    """
    from huggingface_hub.errors import (  # noqa: PLC0415 - see `_list_files`
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    model_id = model.repository
    try:
        return _download(
            model_id,
            is_offline=environment.hf_hub_offline,
            revision=options.revision,
            cache_dir=options.huggingface_hub_cache,
            token=environment.hf_token,
            allow_patterns=list(patterns),
        )
    except HFValidationError as error:
        raise ModelError(
            f"`{model_id}` is neither a folder nor a hub id.",
            "Name a folder, or an id like `owner/name`.",
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"The model `{model_id}` is gated, and this token has no access to it.",
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


def _unreadable(model: HubModel, found: FoundWeights, readable: ReadableFormats) -> ModelError:
    name = found.model_format.name
    readers = " or ".join(f"`{reader}`" for reader in readable.registry.readers(name))
    own = ", ".join(f"`{form.name}`" for form in readable.formats)
    return ModelError(
        f"The hub model `{model.model_id}` has weights in the format `{name}` and none in {own}.",
        f"Choose the backend {readers}, which reads `{name}`."
        if readers
        else f"No installed backend reads `{name}`: name a model in another format.",
    )


def _no_such_file(model: HubModel) -> ModelError:
    return ModelError(
        f"The hub model `{model.repository}` has no file `{model.file}`.",
        "Check the name and `--revision`.",
    )


def _no_such_model(model_id: str) -> ModelError:
    return ModelError(
        f"There is no folder and no hub model `{model_id}`.",
        "Check the name; a private model needs HF_TOKEN.",
    )
