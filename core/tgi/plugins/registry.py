"""The backends that are installed: listed without importing them, loaded one by one, chosen by name
or by priority.

One broken plugin never keeps another from working: whatever is wrong with it becomes a sentence in
its `Candidate`.
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
    """One entry point and what became of it. `problem` is empty where the backend can be used on
    this machine.
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
        """Whether `auto` may take it, priority aside."""
        return not self.problem

    @property
    def status(self) -> str:
        """One line for the operator."""
        if self.problem:
            return self.problem
        words = [] if self.support is None else [self.support.status, *self.support.reasons]
        if self.info is not None and not self.info.selectable:
            words.append("only when named")
        return "usable" + (f" ({', '.join(words)})" if words else "")


@final
@dataclass(frozen=True)
class Selection:
    """The chosen backend and every candidate that was looked at."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def backend(self) -> Backend:
        """The chosen backend."""
        if self.chosen.backend is None:
            raise AssertionError("a usable candidate has a backend")
        return self.chosen.backend


@final
class BackendRegistry:
    """Backends by the name of their entry point in the group `tgi.backends`."""

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] | None = None) -> None:
        found = (
            metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP)
            if entry_points is None
            else entry_points
        )
        # An editable install may list one entry point twice; the same value of the same package is
        # one backend.
        unique = {(point.name, point.value, _package(point)[0]): point for point in found}
        self._entry_points = sorted(unique.values(), key=lambda point: point.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the installed backends; nothing is imported."""
        return tuple(dict.fromkeys(point.name for point in self._entry_points))

    def candidates(self) -> tuple[Candidate, ...]:
        """Every installed backend, loaded and probed."""
        return tuple(self.candidate(name) for name in self.names)

    def candidate(self, name: str) -> Candidate:
        """The backend of that name, loaded and probed; its problem if it cannot be."""
        points = [point for point in self._entry_points if point.name == name]
        package, version = _package(points[0])
        candidate = Candidate(name, package, version)
        if len(points) > 1:
            owners = " and ".join(sorted({_package(point)[0] for point in points}))
            return replace(
                candidate,
                problem=f"the name is registered twice, by {owners}; uninstall one of them",
            )
        try:
            backend = _load(points[0])
            return _probed(replace(candidate, backend=backend, info=backend.info), backend)
        except BackendError as error:
            return replace(candidate, problem=str(error))
        except Exception as error:  # the boundary to a plugin: its faults are its own
            return replace(
                candidate, problem=f"importing it failed: {type(error).__name__}: {error}"
            )

    def supported(
        self, name: str, spec: ModelSpec | GenericSpec, config: EngineConfig
    ) -> Candidate:
        """The backend of that name, loaded, probed, and asked whether it can run this model."""
        return _supported(self.candidate(name), spec, config)

    @staticmethod
    def explain(candidate: Candidate, config: EngineConfig) -> tuple[Implementation, ...]:
        """How a usable candidate would compute the model of `config`; empty if it does not tell."""
        backend: object = candidate.backend
        if not candidate.usable or not isinstance(backend, Explainer):
            return ()
        try:
            return backend.explain(config.spec, config)
        except Exception as error:  # the boundary to a plugin
            return (Implementation("all", f"it does not say: {type(error).__name__}: {error}"),)

    def select(self, name: str, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Selection:
        """The backend to use for this model.

        A named backend that cannot be used is an error with its reason. `auto` takes the usable one
        of highest priority; backends that only act when named are passed over. Raises
        `BackendError`.
        """
        if not self.names:
            raise BackendError(
                "No backend is installed.", 'Install one, e.g. pip install "tgi[cpu]".'
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
                f"The backends {tied} have the same priority {best}.", "Name one with `--backend`."
            )
        return Selection(first[0], candidates)

    def _select_named(
        self, name: str, spec: ModelSpec | GenericSpec, config: EngineConfig
    ) -> Selection:
        if name not in self.names:
            raise BackendError(
                f"The backend `{name}` is not installed. Installed:"
                f" {', '.join(f'`{n}`' for n in self.names)}.",
                f'Install it, e.g. pip install "tgi[{name}]".',
            )
        candidate = self.supported(name, spec, config)
        if not candidate.usable:
            raise BackendError(
                f"The backend `{name}` cannot be used: {candidate.problem.rstrip('.')}."
            )
        return Selection(candidate, (candidate,))


def _load(point: metadata.EntryPoint) -> Backend:
    """Import a plugin and ask it for its backend. It has a manager of its own, so that its faults
    stay its own.
    """
    module = point.load()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=point.name)
    manager.check_pending()
    backends = manager.hook.tgi_backend()
    if len(backends) != 1:
        raise BackendError(
            f"its module {point.value} implements the hook `tgi_backend` {len(backends)} times, not"
            " once"
        )
    return _checked(point.name, backends[0])


def _package(point: metadata.EntryPoint) -> tuple[str, str]:
    return ("?", "?") if point.dist is None else (point.dist.name, point.dist.version)


def _checked(name: str, backend: Backend) -> Backend:
    """Hold a plugin's object against the protocol before anything else of it is called."""
    missing = [method for method in _METHODS if not callable(getattr(backend, method, None))]
    info = getattr(backend, "info", None)
    if missing or info is None:
        names = ", ".join(f"`{m}`" for m in (*missing, *([] if info is not None else ["info"])))
        raise BackendError(f"it lacks {names} of `tgi.backend.Backend`")
    if not isinstance(info, BackendInfo):
        raise BackendError(f"its `info` is a {type(info).__name__}, not a `BackendInfo`")
    if info.name != name:
        raise BackendError(f"it calls itself `{info.name}` but is registered as `{name}`")
    major, minor = info.api
    if major != API_VERSION[0] or minor > API_VERSION[1]:
        ours = ".".join(map(str, API_VERSION))
        raise BackendError(
            f"it is built for seam version {major}.{minor}, this is {ours}; install a matching"
            f" {info.package}"
        )
    return backend


def _probed(candidate: Candidate, backend: Backend) -> Candidate:
    try:
        probe = backend.probe()
    except (
        Exception
    ) as error:  # the boundary to a plugin: a probe must not raise, and says so if it does
        return replace(candidate, problem=f"its probe raised {type(error).__name__}: {error}")
    return replace(
        candidate,
        probe=probe,
        problem="" if probe.usable else probe.reason or "not usable, without a reason",
    )


def _supported(
    candidate: Candidate, spec: ModelSpec | GenericSpec, config: EngineConfig
) -> Candidate:
    if not candidate.usable or candidate.backend is None:
        return candidate
    try:
        support = candidate.backend.supports(spec, config)
    except Exception as error:  # the boundary to a plugin
        return replace(
            candidate, problem=f"its answer to this model raised {type(error).__name__}: {error}"
        )
    if support.status != "no":
        return replace(candidate, support=support)
    return replace(
        candidate,
        support=support,
        problem="; ".join(support.reasons) or "it refuses this model without a reason",
    )
