"""Decides if a model can be served with the given options.

`tgi serve` starts with `read_model`, `choose_backend` and `read_texts`. `tgi inspect`, `tgi doctor`
and `tgi migrate` call `readiness`, which calls the same functions in the same order. All commands
therefore give the same reason for a model that cannot be served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from tgi.architectures import GenericSpec
from tgi.backend import EngineConfig
from tgi.config import Environment, ParsedArguments, ServeOptions, check_options
from tgi.errors import BackendError, ConfigError, StartError
from tgi.models.backend_choice import check_quantize, select_backend
from tgi.models.formats import installed_formats, usable_formats
from tgi.models.resolution import describe_model, find_model, find_tokenizer
from tgi.models.source import Model, ModelSource
from tgi.plugins import BackendRegistry, Selection

if TYPE_CHECKING:
    from tgi.text import ChatTemplate, Tokenizer

__all__ = [
    "Readiness",
    "StartRequest",
    "choose_backend",
    "find_source",
    "read_model",
    "read_texts",
    "readiness",
    "with_description",
]


@final
@dataclass(frozen=True)
class StartRequest:
    """The options, the environment and the installed backends of a server startup. `log` gets a
    line for each action that may take long.
    """

    parsed: ParsedArguments
    environment: Environment
    variables: Mapping[str, str]
    registry: BackendRegistry
    log: Callable[[str], None] = lambda _: None

    @property
    def options(self) -> ServeOptions:
        """The parsed options."""
        return self.parsed.options


@final
@dataclass(frozen=True)
class Readiness:
    """The result of all steps before the weights are read. `problem` is the error that ends the
    startup, or None if the model can be served. Steps after the problem have the result None.
    """

    problem: StartError | None = None
    source: ModelSource | None = None
    model: Model | None = None
    config: EngineConfig | None = None
    selection: Selection | None = None


def readiness(request: StartRequest) -> Readiness:
    """Run the steps of a startup that come before the weights are read. The result contains the
    error of a failed step.
    """
    ready = Readiness()
    try:
        check_options(request.options)
        source = find_source(request)
        ready = replace(ready, source=source)
        model = read_model(request, source)
        ready = replace(ready, model=model)
        config, selection = choose_backend(request, model)
        ready = replace(ready, config=config, selection=selection)
        read_texts(request.options, model)
        request.registry.check(selection.chosen, config)
    except StartError as error:
        return replace(ready, problem=error)
    return ready


def with_description(request: StartRequest, ready: Readiness) -> Readiness:
    """Add the description of the model to the result of `readiness`, if the startup failed because
    no backend can be used. The formats of all installed backends are then used.

    Raises the problem if the model itself cannot be read. The model stays None if no installed
    backend can describe it.
    """
    problem = ready.problem
    if ready.model is not None or problem is None:
        return ready
    if not isinstance(problem, BackendError):
        raise problem
    options, environment = request.options, request.environment
    readable = installed_formats(request.registry, options.backend)
    source = ready.source or find_model(options, environment, readable, request.log)
    try:
        model = describe_model(source, options, environment, readable)
    except BackendError:
        return replace(ready, source=source)
    return replace(ready, source=source, model=model)


def find_source(request: StartRequest) -> ModelSource:
    """Find the files of the model in a format that a usable backend reads. Raises `ModelError`, and
    `BackendError` if no backend can be used.
    """
    options, registry = request.options, request.registry
    readable = usable_formats(registry, options.backend)
    source = find_model(options, request.environment, readable, request.log)
    registry.usable(options.backend, source.model_format.name)
    return source


def read_model(request: StartRequest, source: ModelSource) -> Model:
    """Read the description of the model. Raises `ModelError`, and `ConfigError` if the model's code
    would run without a fixed revision.
    """
    options = request.options
    readable = usable_formats(request.registry, options.backend)
    model = describe_model(source, options, request.environment, readable)
    _check_trust(options, model)
    return model


def choose_backend(request: StartRequest, model: Model) -> tuple[EngineConfig, Selection]:
    """Choose the backend. Raises `BackendError` if no backend can serve the model, and `ModelError`
    if `--quantize` contradicts the checkpoint.
    """
    check_quantize(model, request.options.quantize)
    return select_backend(
        model,
        request.parsed,
        request.environment,
        request.variables,
        registry=request.registry,
    )


def read_texts(options: ServeOptions, model: Model) -> tuple[Tokenizer, ChatTemplate | None]:
    """Read the tokenizer and the chat template. Raises `ModelError`, and `ConfigError` if the file
    of `--tokenizer-config-path` does not exist.
    """
    # The library takes a tenth of a second to import. The engine process starts during this time.
    from tgi.text import ChatTemplate, Tokenizer  # noqa: PLC0415

    path = options.tokenizer_config_path
    if path is not None and not Path(path).is_file():
        raise ConfigError(
            f"`--tokenizer-config-path` names the file `{path}`, which does not exist.",
            "Give the path of a tokenizer_config.json with a chat template.",
        )
    folder = find_tokenizer(model)
    return Tokenizer.load(folder), ChatTemplate.load(folder, None if path is None else Path(path))


def _check_trust(options: ServeOptions, model: Model) -> None:
    """Raise `ConfigError` if code from a model repository would run and the revision is not a
    commit. The code at a commit cannot change.
    """
    runs_code = (
        options.trust_remote_code
        and isinstance(model.spec, GenericSpec)
        and bool(model.spec.config.get("auto_map"))
    )
    source = model.source
    if runs_code and not source.is_pinned:
        raise ConfigError(
            f"`--trust-remote-code` runs the code of `{source.model_id}`. It requires `--revision`"
            f" with a commit of 40 digits. Given: {options.revision or 'none'}.",
            f"Read the code, then add `--revision {source.revision or '<commit>'}`.",
        )
