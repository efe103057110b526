"""Asks the installed backends about the options of a converted command."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tgi.cli.migration.data import ImageVariant
from tgi.config import (
    REJECTABLE_OPTIONS,
    ParsedArguments,
    ServeOptions,
    read_environment,
)
from tgi.errors import StartError
from tgi.models import (
    StartRequest,
    describe_model,
    engine_config,
    find_model,
    installed_formats,
    readiness,
)
from tgi.plugins import AUTO, BackendRegistry

__all__ = ["hardware_sentence", "rejections"]

_CORE_PACKAGE = "tgi"


def hardware_sentence(variant: ImageVariant, registry: BackendRegistry) -> str:
    """Return a sentence about the backend for the hardware of an image."""
    installed = [c.name for c in registry.candidates() if c.package != _CORE_PACKAGE]
    fitting = [name for name in variant.backends if name in installed]
    if fitting:
        return f"The image is for {variant.hardware}. The backend `{fitting[0]}` is installed."
    names = _list([f"`{name}`" for name in installed]) or "none"
    return (
        f"The image is for {variant.hardware}, and no backend for this hardware is installed."
        f" Installed backends: {names}."
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def rejections(options: ServeOptions, registry: BackendRegistry) -> list[str]:
    """Return the reasons for which `tgi serve` would not start on this machine, as sentences.

    If the model is a local file or folder, the checks that `tgi serve` makes at startup are run.
    Otherwise nothing is downloaded, and only the backends check the options. The list is empty if
    there are no reasons.
    """
    path = options.model_id
    if path is not None and Path(path).expanduser().exists():
        start = StartRequest(ParsedArguments(options, {}), read_environment({}), {}, registry)
        problem = readiness(start).problem
        return [] if problem is None else [f"`tgi serve` fails on this machine: {problem}"]
    reasons = _rejected_options(options, registry)
    return [f"`tgi serve` rejects an option on this machine: {reason}." for reason in reasons]


def _rejected_options(options: ServeOptions, registry: BackendRegistry) -> list[str]:
    """Return the reasons for which the backends that `tgi serve` can select reject the values of
    the options. The list is empty if one of them accepts all values.
    """
    values = {name: getattr(options, name) for name in REJECTABLE_OPTIONS}
    if not any(value not in (None, 1) for value in values.values()):
        return []
    try:
        candidates = registry.usable(options.backend or AUTO)
        plain = dataclasses.replace(ServeOptions(), **values)
        environment = read_environment({})
        formats = installed_formats(registry, AUTO)
        source = find_model(ServeOptions(), environment, formats, lambda _: None)
        model = describe_model(source, ServeOptions(), environment, formats)
        config = engine_config(model, ParsedArguments(plain, {}), environment)
    except StartError as error:
        return [str(error).rstrip(".")]
    flags = [f"`--{name.replace('_', '-')} " for name in REJECTABLE_OPTIONS]
    first: list[str] = []
    for candidate in candidates:
        support = registry.supported(candidate.name, model.spec, config).support
        reasons = [] if support is None else list(support.reasons)
        about_options = [r for r in reasons if any(r.startswith(flag) for flag in flags)]
        if support is None or support.status != "no" or not about_options:
            return []
        first = first or about_options
    return first
