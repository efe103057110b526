"""Find the installed backends, load them, and select one by name or by priority.

A broken plugin does not affect other plugins: its error becomes the `problem` of its `Candidate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import final

import pluggy

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import (
    API_VERSION,
    Backend,
    BackendError,
    BackendInfo,
    EngineConfig,
    Explainer,
    Implementation,
    ModelDescription,
    ModelReader,
    ProbeResult,
    Support,
)
from tgi.plugins import hookspecs
from tgi.plugins.boundary import call_plugin

__all__ = ["AUTO", "BackendRegistry", "Candidate", "Selection"]

AUTO = "auto"

_METHODS = ("probe", "supports", "create_worker")


@final
@dataclass(frozen=True)
class Candidate:
    """One entry point, with its backend and its results. `problem` is empty if the backend can be
    used on this machine.
    """

    name: str
    package: str
    version: str
    backend: Backend | None = None
    info: BackendInfo | None = None
    probe: ProbeResult | None = None
    support: Support | None = None
    problem: str = ""

    @property
    def usable(self) -> bool:
        """Whether the backend can be used, apart from its priority."""
        return not self.problem

    @property
    def priority(self) -> int:
        """The priority for `auto`; 0 if the backend could not be loaded."""
        return 0 if self.info is None else self.info.priority

    def reads(self, model_format: str) -> bool:
        """Whether the backend reads models in the format with this name."""
        return self.info is not None and self.info.model_files.reads(model_format)

    @property
    def status(self) -> str:
        """The status of the backend, as one line for the operator."""
        if self.problem:
            return self.problem
        words = [] if self.support is None else [self.support.status, *self.support.reasons]
        if self.info is not None and not self.info.selectable:
            words.append("only when named")
        return "usable" + (f" ({', '.join(words)})" if words else "")


@final
@dataclass(frozen=True)
class Selection:
    """The selected backend, and all candidates that were considered."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def backend(self) -> Backend:
        """The selected backend."""
        if self.chosen.backend is None:
            raise AssertionError("a usable candidate has a backend")
        return self.chosen.backend


@final
class BackendRegistry:
    """The installed backends, by the name of their entry point in the group `tgi.backends`."""

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] | None = None) -> None:
        found = (
            metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP)
            if entry_points is None
            else entry_points
        )
        # An editable install may list an entry point twice. Entry points with the same name, value
        # and package are the same backend.
        unique = {(point.name, point.value, _package(point)[0]): point for point in found}
        self._entry_points = sorted(unique.values(), key=lambda point: point.name)
        self._candidates: dict[str, Candidate] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the installed backends. Imports nothing."""
        return tuple(dict.fromkeys(point.name for point in self._entry_points))

    def candidates(self) -> tuple[Candidate, ...]:
        """All installed backends, loaded and probed."""
        return tuple(self.candidate(name) for name in self.names)

    def candidate(self, name: str) -> Candidate:
        """Load and probe the backend called `name`, once. If this fails, the candidate has a
        problem.
        """
        if name not in self._candidates:
            self._candidates[name] = self._new_candidate(name)
        return self._candidates[name]

    def _new_candidate(self, name: str) -> Candidate:
        points = [point for point in self._entry_points if point.name == name]
        package, version = _package(points[0])
        candidate = Candidate(name, package, version)
        if len(points) > 1:
            owners = " and ".join(sorted({_package(point)[0] for point in points}))
            return replace(
                candidate,
                problem=f"the name is registered twice, by {owners}; uninstall one package",
            )
        try:
            backend = _load(points[0])
            return _probed(replace(candidate, backend=backend, info=backend.info), backend)
        except BackendError as error:
            return replace(candidate, problem=str(error))
        except Exception as error:  # the boundary to a plugin: it can raise any exception
            return replace(candidate, problem=f"the import failed: {type(error).__name__}: {error}")

    def supported(
        self, name: str, spec: ModelSpec | GenericSpec, config: EngineConfig
    ) -> Candidate:
        """Load and probe the backend called `name`, and call its `supports` for this model."""
        return _supported(self.candidate_for_format(name, config.model_format), spec, config)

    def readers(self, model_format: str) -> tuple[str, ...]:
        """Names of the installed backends that read models in this format; loads each backend."""
        return tuple(c.name for c in self.candidates() if c.reads(model_format))

    def usable(self, name: str, model_format: str | None = None) -> tuple[Candidate, ...]:
        """The backends that may serve a model on this machine, preferred first: the named one, or
        for `auto` every usable and selectable one by descending priority. With `model_format`, only
        those that read models in this format. Raises `BackendError` if there is none.
        """
        self._require(name)
        if name != AUTO:
            return (_usable(self._candidate(name, model_format)),)
        candidates = tuple(self._candidate(each, model_format) for each in self.names)
        usable = [c for c in candidates if c.usable and c.info is not None and c.info.selectable]
        if usable:
            return tuple(sorted(usable, key=lambda candidate: -candidate.priority))
        if model_format is not None and not self.readers(model_format):
            raise BackendError(
                f"No installed backend reads models in the format `{model_format}`.",
                "Name a model in another format, or install a backend that reads this one.",
            )
        raise _none_usable(candidates)

    def candidate_for_format(self, name: str, model_format: str) -> Candidate:
        """The backend of that name, rejected with a reason if it does not read models in this
        format.
        """
        candidate = self.candidate(name)
        if not candidate.usable or candidate.info is None or candidate.reads(model_format):
            return candidate
        own = ", ".join(f"`{own.name}`" for own in candidate.info.model_files.formats)
        readers = " or ".join(f"`{reader}`" for reader in self.readers(model_format))
        who = f"the installed backend {readers} reads" if readers else "no installed backend reads"
        reason = f"it reads models in the format {own}, not in `{model_format}`, which {who}"
        return replace(candidate, support=Support("no", (reason,)), problem=reason)

    def describe_model(
        self, candidate: Candidate, model_path: str, model_format: str, cache_dir: str
    ) -> ModelDescription | None:
        """The description by a backend that reads the format; None if the backend gives none.
        Raises `ModelError` or `BackendError`.
        """
        backend: object = candidate.backend
        if not isinstance(backend, ModelReader) or not candidate.reads(model_format):
            return None
        return call_plugin(
            candidate.name,
            f"describe `{model_path}`",
            lambda: backend.describe_model(model_path, model_format, cache_dir),
        )

    @staticmethod
    def explain(candidate: Candidate, config: EngineConfig) -> tuple[Implementation, ...]:
        """How a usable candidate would compute the model of `config`. Empty if the backend has no
        `explain`.
        """
        backend: object = candidate.backend
        if not candidate.usable or not isinstance(backend, Explainer):
            return ()
        try:
            return backend.explain(config.spec, config)
        except Exception as error:  # the boundary to a plugin
            return (Implementation("all", f"`explain` failed: {type(error).__name__}: {error}"),)

    def select(self, name: str, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Selection:
        """Select the backend for this model.

        `auto` selects the usable backend with the highest priority. It ignores backends that must
        be named. Raises `BackendError` with the reason if no backend, or the named backend, can be
        used.
        """
        self._require(name)
        if name != AUTO:
            candidate = _usable(self.supported(name, spec, config))
            return Selection(candidate, (candidate,))
        candidates = tuple(self.supported(each, spec, config) for each in self.names)
        usable = [c for c in candidates if c.usable and c.info is not None and c.info.selectable]
        if not usable:
            raise _none_usable(candidates)
        best = max(candidate.priority for candidate in usable)
        first = [candidate for candidate in usable if candidate.priority == best]
        if len(first) > 1:
            tied = " and ".join(f"`{c.name}`" for c in first)
            raise BackendError(
                f"The backends {tied} have the same priority {best}.",
                "Select one with `--backend`.",
            )
        return Selection(first[0], candidates)

    def _candidate(self, name: str, model_format: str | None) -> Candidate:
        if model_format is None:
            return self.candidate(name)
        return self.candidate_for_format(name, model_format)

    def _require(self, name: str) -> None:
        """Raise `BackendError` if no backend is installed, or not the named one."""
        if not self.names:
            raise BackendError(
                "No backend is installed.", 'Install one, for example: pip install "tgi[cpu]".'
            )
        if name != AUTO and name not in self.names:
            raise BackendError(
                f"The backend `{name}` is not installed. Installed:"
                f" {', '.join(f'`{n}`' for n in self.names)}.",
                f'Install it, for example: pip install "tgi[{name}]".',
            )


def _usable(candidate: Candidate) -> Candidate:
    if not candidate.usable:
        raise BackendError(
            f"The backend `{candidate.name}` cannot be used: {candidate.problem.rstrip('.')}."
        )
    return candidate


def _none_usable(candidates: Iterable[Candidate]) -> BackendError:
    statuses = "; ".join(f"{c.name}: {c.status}" for c in candidates)
    return BackendError(f"No installed backend can serve this model on this machine ({statuses}).")


def _load(point: metadata.EntryPoint) -> Backend:
    """Import a plugin and call its hook. Each plugin has a separate plugin manager, so that its
    errors do not affect other plugins.
    """
    module = point.load()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=point.name)
    manager.check_pending()
    backends = manager.hook.tgi_backend()
    if len(backends) != 1:
        raise BackendError(
            f"its module {point.value} implements the hook `tgi_backend` {len(backends)} times"
            " instead of once"
        )
    return _checked(point.name, backends[0])


def _package(point: metadata.EntryPoint) -> tuple[str, str]:
    return ("?", "?") if point.dist is None else (point.dist.name, point.dist.version)


def _checked(name: str, backend: Backend) -> Backend:
    """Check that the plugin's object implements `Backend`. Raises `BackendError`."""
    missing = [method for method in _METHODS if not callable(getattr(backend, method, None))]
    info = getattr(backend, "info", None)
    if missing or info is None:
        names = ", ".join(f"`{m}`" for m in (*missing, *([] if info is not None else ["info"])))
        raise BackendError(f"its backend has no {names} (see `tgi.backend.Backend`)")
    if not isinstance(info, BackendInfo):
        raise BackendError(f"its `info` is a {type(info).__name__}, not a `BackendInfo`")
    if info.name != name:
        raise BackendError(f"its name is `{info.name}` but it is registered as `{name}`")
    major, minor = info.api
    if major != API_VERSION[0] or minor > API_VERSION[1]:
        ours = ".".join(map(str, API_VERSION))
        raise BackendError(
            f"it was built for version {major}.{minor} of the backend interface, but tgi has"
            f" version {ours}; install a matching version of {info.package}"
        )
    return backend


def _probed(candidate: Candidate, backend: Backend) -> Candidate:
    try:
        probe = backend.probe()
    except Exception as error:  # the boundary to a plugin
        return replace(candidate, problem=f"its `probe` raised {type(error).__name__}: {error}")
    return replace(
        candidate,
        probe=probe,
        problem=""
        if probe.usable
        else probe.reason or "the backend is not usable and gave no reason",
    )


def _supported(
    candidate: Candidate, spec: ModelSpec | GenericSpec, config: EngineConfig
) -> Candidate:
    if not candidate.usable or candidate.backend is None:
        return candidate
    try:
        support = candidate.backend.supports(spec, config)
    except Exception as error:  # the boundary to a plugin
        return replace(candidate, problem=f"its `supports` raised {type(error).__name__}: {error}")
    if support.status != "no":
        return replace(candidate, support=support)
    return replace(
        candidate,
        support=support,
        problem="; ".join(support.reasons) or "it rejects this model and gave no reason",
    )
