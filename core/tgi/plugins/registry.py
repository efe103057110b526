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
    ProbeResult,
    Support,
)
from tgi.plugins import hookspecs

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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the installed backends. Imports nothing."""
        return tuple(dict.fromkeys(point.name for point in self._entry_points))

    def candidates(self) -> tuple[Candidate, ...]:
        """All installed backends, loaded and probed."""
        return tuple(self.candidate(name) for name in self.names)

    def candidate(self, name: str) -> Candidate:
        """Load and probe the backend called `name`. If this fails, the candidate has a problem."""
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
        return _supported(self.candidate(name), spec, config)

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
        if not self.names:
            raise BackendError(
                "No backend is installed.", 'Install one, for example: pip install "tgi[cpu]".'
            )
        if name != AUTO:
            return self._select_named(name, spec, config)
        candidates = tuple(_supported(candidate, spec, config) for candidate in self.candidates())
        usable = [c for c in candidates if c.usable and c.info is not None and c.info.selectable]
        if not usable:
            statuses = "; ".join(f"{c.name}: {c.status}" for c in candidates)
            raise BackendError(
                f"No installed backend can serve this model on this machine ({statuses})."
            )
        best = max(c.info.priority for c in usable if c.info is not None)
        first = [c for c in usable if c.info is not None and c.info.priority == best]
        if len(first) > 1:
            tied = " and ".join(f"`{c.name}`" for c in first)
            raise BackendError(
                f"The backends {tied} have the same priority {best}.",
                "Select one with `--backend`.",
            )
        return Selection(first[0], candidates)

    def _select_named(
        self, name: str, spec: ModelSpec | GenericSpec, config: EngineConfig
    ) -> Selection:
        if name not in self.names:
            raise BackendError(
                f"The backend `{name}` is not installed. Installed:"
                f" {', '.join(f'`{n}`' for n in self.names)}.",
                f'Install it, for example: pip install "tgi[{name}]".',
            )
        candidate = self.supported(name, spec, config)
        if not candidate.usable:
            raise BackendError(
                f"The backend `{name}` cannot be used: {candidate.problem.rstrip('.')}."
            )
        return Selection(candidate, (candidate,))


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
