"""Finds and loads the installed backends, and selects a backend by name or by priority.

A broken plugin does not affect other plugins. The error is stored in the plugin's
`Candidate.problem`.
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
    ModelChecker,
    ModelDescription,
    ModelReader,
    ProbeResult,
    Support,
)
from tgi.plugins import hookspecs
from tgi.plugins.boundary import call_plugin, result_or

__all__ = ["AUTO", "BackendRegistry", "Candidate", "Selection"]

AUTO = "auto"

_CORE_PACKAGE = "tgi"  # its own backends are for tests
_METHODS = ("probe", "supports", "create_worker")


@final
@dataclass(frozen=True)
class Candidate:
    """One entry point with its backend, and the results of the backend's methods. `problem` is
    empty if the backend can be used on this machine.
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
        """Whether the backend can be used. The priority has no influence."""
        return not self.problem

    @property
    def priority(self) -> int:
        """The priority for `auto`, or 0 if the backend could not be loaded."""
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
        if self.support is None and self.probe is not None and self.probe.reason:
            words.append(self.probe.reason)
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
        """The names of the installed backends. This property imports no plugin."""
        return tuple(dict.fromkeys(point.name for point in self._entry_points))

    def candidates(self) -> tuple[Candidate, ...]:
        """Return all installed backends. All backends are loaded and probed."""
        return tuple(self.candidate(name) for name in self.names)

    def candidate(self, name: str) -> Candidate:
        """Return the backend with the name `name`. The first call loads and probes the backend. If
        this fails, the candidate has a `problem`.
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

        def load() -> Candidate:
            backend = _load(points[0])
            return _probed(replace(candidate, backend=backend, info=backend.info), backend)

        return result_or(load, lambda error: replace(candidate, problem=_load_problem(error)))

    def supported(
        self, name: str, spec: ModelSpec | GenericSpec, config: EngineConfig
    ) -> Candidate:
        """Return the backend with the name `name`, with the result of its `supports` for this
        model.
        """
        return _supported(self.candidate_for_format(name, config.model_format), spec, config)

    def readers(self, model_format: str) -> tuple[str, ...]:
        """Return the names of the installed backends that read models in this format. All backends
        are loaded.
        """
        return tuple(c.name for c in self.candidates() if c.reads(model_format))

    def usable(self, name: str, model_format: str | None = None) -> tuple[Candidate, ...]:
        """Return the backends that may serve a model on this machine. For `auto` these are all
        usable and selectable backends by descending priority, otherwise only the backend `name`.

        If `model_format` is given, only backends that read models in this format are returned.
        Raises `BackendError` if no backend remains.
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
        """Return the backend with the name `name`. If the backend does not read models in this
        format, the candidate has a `problem`.
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
        """Return the description of a model by a backend. Returns None if the backend does not read
        the format or does not describe models. Raises `ModelError` or `BackendError` if the backend
        cannot describe the model.
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
    def check(candidate: Candidate, config: EngineConfig) -> None:
        """Raise the error with which a usable backend would reject the files of the model of
        `config`. Does nothing if the backend has no method `check`.
        """
        backend: object = candidate.backend
        if isinstance(backend, ModelChecker):
            call_plugin(
                candidate.name,
                f"check `{config.model_path}`",
                lambda: backend.check(config.spec, config),
            )

    @staticmethod
    def explain(candidate: Candidate, config: EngineConfig) -> tuple[Implementation, ...]:
        """Return the implementations with which a usable candidate would compute the model of
        `config`. Returns an empty tuple if the backend has no method `explain`.
        """
        backend: object = candidate.backend
        if not candidate.usable or not isinstance(backend, Explainer):
            return ()
        return result_or(
            lambda: backend.explain(config.spec, config),
            lambda error: (Implementation("all", f"`explain` failed: {_named(error)}"),),
        )

    def select(self, name: str, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Selection:
        """Select the backend for this model.

        `auto` selects the usable backend with the highest priority. Backends that are not
        selectable are ignored. Raises a `BackendError` with the reason if the named backend cannot
        be used. For `auto` the error is raised if no backend can be used.
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
        return Selection(first[0], tuple(c for c in candidates if c.package != _CORE_PACKAGE))

    def _without_tests(self) -> tuple[str, ...]:
        """Return the names of the installed backends, without those of the core for tests."""
        owners = {point.name: _package(point)[0] for point in self._entry_points}
        return tuple(name for name in self.names if owners[name] != _CORE_PACKAGE)

    def _candidate(self, name: str, model_format: str | None) -> Candidate:
        if model_format is None:
            return self.candidate(name)
        return self.candidate_for_format(name, model_format)

    def _require(self, name: str) -> None:
        """Raise `BackendError` if no backend is installed, or if the named backend is not
        installed.
        """
        if not self.names:
            raise BackendError(
                "No backend is installed.", 'Install one, for example: pip install "tgi[cpu]".'
            )
        if name != AUTO and name not in self.names:
            listed = ", ".join(f"`{n}`" for n in self._without_tests()) or "none"
            raise BackendError(
                f"The backend `{name}` is not installed. Installed: {listed}.",
                f'Install it: pip install "tgi[{name}]".'
                if name in _extras()
                else "Name an installed backend, or install the package with this backend.",
            )


def _usable(candidate: Candidate) -> Candidate:
    if not candidate.usable:
        raise BackendError(
            f"The backend `{candidate.name}` cannot be used: {candidate.problem.rstrip('.')}."
        )
    return candidate


def _none_usable(candidates: Iterable[Candidate]) -> BackendError:
    """Create the error of `auto`. The backends for tests are named only if there are no others."""
    candidates = tuple(candidates)
    real = tuple(c for c in candidates if c.package != _CORE_PACKAGE)
    statuses = "; ".join(f"{c.name}: {c.status.rstrip('.')}" for c in real or candidates)
    return BackendError(f"No installed backend can serve this model on this machine ({statuses}).")


def _extras() -> tuple[str, ...]:
    """Return the extras of the core, which install backends and other packages."""
    try:
        return tuple(metadata.metadata(_CORE_PACKAGE).get_all("Provides-Extra") or ())
    except metadata.PackageNotFoundError:
        return ()


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


def _load_problem(error: Exception) -> str:
    """Return the `problem` of a plugin that could not be loaded."""
    return str(error) if isinstance(error, BackendError) else f"the import failed: {_named(error)}"


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _package(point: metadata.EntryPoint) -> tuple[str, str]:
    return ("?", "?") if point.dist is None else (point.dist.name, point.dist.version)


def _checked(name: str, backend: Backend) -> Backend:
    """Return the plugin's object. Raises `BackendError` if the object does not implement
    `Backend`.
    """
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
    return result_or(
        lambda: _with_probe(candidate, backend.probe()),
        lambda error: replace(candidate, problem=f"its `probe` raised {_named(error)}"),
    )


def _with_probe(candidate: Candidate, probe: ProbeResult) -> Candidate:
    reason = probe.reason or "the backend is not usable and gave no reason"
    return replace(candidate, probe=probe, problem="" if probe.usable else reason)


def _supported(
    candidate: Candidate, spec: ModelSpec | GenericSpec, config: EngineConfig
) -> Candidate:
    backend = candidate.backend
    if not candidate.usable or backend is None:
        return candidate
    return result_or(
        lambda: _with_support(candidate, backend.supports(spec, config)),
        lambda error: replace(candidate, problem=f"its `supports` raised {_named(error)}"),
    )


def _with_support(candidate: Candidate, support: Support) -> Candidate:
    if support.status != "no":
        return replace(candidate, support=support)
    reason = "; ".join(support.reasons) or "it rejects this model and gave no reason"
    return replace(candidate, support=support, problem=reason)
