"""Reports how the backends of this repository run a model, independently of the machine.

The checks of a model that is not built in import torch and `transformers`. All other checks import
no framework.
"""

from __future__ import annotations

import importlib
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import final

from tgi.architectures import GenericSpec
from tgi.backend import Backend, EngineConfig, ModelChecker, ModelError, Support
from tgi.config.quantization import QUANTIZATION_MEANINGS
from tgi_cpu import native_support
from tools.published_models import RECORDS, PublishedModel, write_checkpoint

__all__ = ["Status", "accepted_quantizations", "backends", "status_of"]

_PROJECTS = Path(__file__).parents[1] / "backends"

_OPTIONS: Mapping[str, dict[str, str]] = MappingProxyType({"tpu": {"platform": "cpu"}})
"""Options with which a backend decides independently of the devices of this machine."""


@final
@dataclass(frozen=True)
class Status:
    """How a backend runs a model. `name` is native, torch, slow, transformers or rejected. `reason`
    is the reason for the status, or empty.
    """

    name: str
    reason: str = ""

    @property
    def text(self) -> str:
        """The text of a table cell."""
        return f"{self.name}: {self.reason}" if self.reason else self.name


@cache
def backends() -> Mapping[str, Backend]:
    """Return the backends of this repository by name, from the entry points of their packages.

    Other installed backends and the test doubles of the core are left out.
    """
    found: dict[str, Backend] = {}
    for path in sorted(_PROJECTS.glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for name, module in project.get("entry-points", {}).get("tgi.backends", {}).items():
            found[name] = importlib.import_module(module).tgi_backend()
    return MappingProxyType(found)


def status_of(backend: str, model: PublishedModel) -> Status:
    """Return how the backend runs the model in bfloat16 on one device."""
    answer = _supports(backend, model)
    if answer.status == "no":
        return Status("rejected", "; ".join(answer.reasons))
    if isinstance(model.spec, GenericSpec):
        return _status_without_spec(backend, model)
    if answer.status == "slow":
        return Status("slow", "; ".join(answer.reasons))
    # On the CPU, `explain` depends on the processor. The check of the spec does not.
    missing = native_support.unsupported(model.spec) if backend == "cpu" else ()
    return Status("torch", ", ".join(missing)) if missing else Status("native")


def accepted_quantizations(backend: str, model: PublishedModel) -> tuple[str, ...]:
    """Return the values of `--quantize` with which the backend runs the model."""
    return tuple(
        value for value in QUANTIZATION_MEANINGS if _supports(backend, model, value).status != "no"
    )


def _supports(backend: str, model: PublishedModel, quantize: str | None = None) -> Support:
    # The folder of the records contains no weights, so the result depends only on the spec.
    config = _engine_config(backend, model, RECORDS, quantize)
    return backends()[backend].supports(model.spec, config)


def _status_without_spec(backend: str, model: PublishedModel) -> Status:
    """Return the result of the backend's own check, which builds the model without weights."""
    checker = backends()[backend]
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), model.config)
        try:
            if isinstance(checker, ModelChecker):
                checker.check(model.spec, _engine_config(backend, model, Path(folder)))
        except ModelError as error:
            # The message begins with the version of `transformers` and ends with a remedy.
            return Status("rejected", str(error).partition(": ")[2].partition(". ")[0])
    return Status("transformers")


def _engine_config(
    backend: str, model: PublishedModel, path: Path, quantize: str | None = None
) -> EngineConfig:
    return EngineConfig(
        backend=backend,
        model_path=str(path),
        spec=model.spec,
        dtype="bfloat16",
        quantize=quantize,
        options=_OPTIONS.get(backend, {}),
    )
