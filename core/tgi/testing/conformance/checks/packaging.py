"""Checks that need no device: the package, the `Backend` class and its results."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import msgspec

from tgi.architectures import GenericSpec
from tgi.backend import API_VERSION, BackendInfo, EngineConfig
from tgi.plugins import BackendRegistry
from tgi.testing.conformance.backend_under_test import BackendUnderTest
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.require import not_applicable, require

__all__ = ["CHECKS"]

_FRAMEWORKS = ("torch", "jax", "jaxlib", "tensorflow", "transformers", "onnxruntime", "openvino")
_PUBLIC_PACKAGES = (
    "tgi.backend",
    "tgi.worker",
    "tgi.checkpoints",
    "tgi.architectures",
    "tgi.testing",
)
_TIMEOUT_SECONDS = 60.0


def _entry_point(under_test: BackendUnderTest) -> metadata.EntryPoint:
    not_applicable(
        under_test.entry_point is None, "the backend was passed as an object, not installed"
    )
    assert under_test.entry_point is not None
    return under_test.entry_point


def _entry_points(under_test: BackendUnderTest) -> None:
    point = _entry_point(under_test)
    same = {
        (p.value, None if p.dist is None else p.dist.name)
        for p in metadata.entry_points(group=point.group, name=point.name)
    }
    require(
        len(same) == 1,
        f"the name `{point.name}` is registered {len(same)} times: {sorted(map(str, same))}",
    )
    require(point.dist is not None, "the entry point belongs to no distribution")
    assert point.dist is not None
    info = under_test.backend.info
    require(
        info.package == point.dist.name,
        f"`info.package` is `{info.package}`, but the distribution is `{point.dist.name}`",
    )
    require(
        info.version == point.dist.version,
        f"`info.version` is {info.version}, but the distribution's is {point.dist.version}",
    )
    requirements = point.dist.requires or []
    names_core = any(_distribution(requirement) == "tgi" for requirement in requirements)
    require(names_core or point.dist.name == "tgi", "the distribution does not require `tgi`")


def _distribution(requirement: str) -> str:
    """Return the name of the distribution in a requirement."""
    name = requirement
    for mark in "[(<>=!~; ":
        name = name.split(mark)[0]
    return name.strip()


def _hooks(under_test: BackendUnderTest) -> None:
    info = under_test.backend.info
    require(isinstance(info, BackendInfo), f"`info` is a {type(info).__name__}")
    require(
        info.name == under_test.name,
        f"`info.name` is `{info.name}`, but the registered name is `{under_test.name}`",
    )
    is_compatible = info.api[0] == API_VERSION[0] and info.api[1] <= API_VERSION[1]
    require(is_compatible, f"it requires interface version {info.api}, this is {API_VERSION}")
    if under_test.entry_point is not None:
        candidate = BackendRegistry().candidate(under_test.name)
        require(candidate.backend is not None, f"the registry cannot load it: {candidate.problem}")


def _framework_free_import(under_test: BackendUnderTest) -> None:
    point = _entry_point(under_test)
    code = (
        f"import sys, {point.module}; print(*sorted({{m.split('.')[0] for m in sys.modules}} &"
        f" set({_FRAMEWORKS!r})))"
    )
    imported = _run(code).strip()
    require(not imported, f"importing `{point.module}` imports {imported}")


def _probe(under_test: BackendUnderTest) -> None:
    point = _entry_point(under_test)
    code = (
        "import os, sys, threading, psutil\n"
        "from tgi.plugins import BackendRegistry\n"
        f"backend = BackendRegistry().candidate({point.name!r}).backend\n"
        "before = dict(os.environ)\n"
        "first, second = backend.probe(), backend.probe()\n"
        "assert first.usable == second.usable, 'two probes differ'\n"
        "assert first.usable or first.reason, 'not usable, without a reason'\n"
        "assert dict(os.environ) == before, 'it changed the environment'\n"
        "assert threading.active_count() == 1, 'it left a thread'\n"
        "assert not psutil.Process().children(), 'it left a process'\n"
        f"loaded = {{m.split('.')[0] for m in sys.modules}} & set({_FRAMEWORKS!r})\n"
        "assert not loaded, f'it imports {loaded}'\n"
    )
    _run(code)


def _run(code: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        require(False, f"the process did not end within {_TIMEOUT_SECONDS:.0f} s")
        raise
    require(done.returncode == 0, done.stderr.strip().rpartition("\n")[2])
    return done.stdout


def _static_imports(under_test: BackendUnderTest) -> None:
    point = _entry_point(under_test)
    package = point.module.split(".")[0]
    not_applicable(package == "tgi", "the backend is part of the core's distribution")
    spec = find_spec(package)
    require(
        spec is not None and spec.submodule_search_locations is not None,
        f"`{package}` is not a package",
    )
    assert spec is not None
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            for what in _reaching_in(ast.parse(source), package):
                require(False, f"{path.name} {what}")


def _reaching_in(tree: ast.Module, package: str) -> Iterator[str]:
    """Describe imports of private modules of the core, and assignments to other modules."""
    foreign = set[str]()
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [
                f"{node.module}.{alias.name}" if node.module == "tgi" else node.module
                for alias in node.names
            ]
        for name in names:
            is_public = any(
                name == package or name.startswith(f"{package}.") for package in _PUBLIC_PACKAGES
            )
            if name.startswith("tgi.") and not is_public:
                yield f"imports `{name}`, which is not public"
        if isinstance(node, ast.Import):
            foreign |= {
                (a.asname or a.name).split(".")[0]
                for a in node.names
                if a.name.split(".")[0] != package
            }
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id in foreign
            ):
                yield (
                    f"line {target.lineno} changes `{target.value.id}.{target.attr}`, a module of"
                    " another package"
                )


def _supports(under_test: BackendUnderTest) -> None:
    model = under_test.models.get()
    config, backend = under_test.config(model), under_test.backend
    first, second = backend.supports(model.spec, config), backend.supports(model.spec, config)
    require(first == second, "two calls of `supports` have different results")
    require(first.status != "no", f"the plain tiny model is rejected: {'; '.join(first.reasons)}")
    for field, value in (
        ("quantize", "no-such-format"),
        ("num_shard", 4096),
        ("dtype", "complex7"),
        ("kv_cache_dtype", "int3"),
    ):
        changed: EngineConfig = msgspec.structs.replace(config, **{field: value})
        response = backend.supports(model.spec, changed)
        require(response.status == "no", f"{field} {value!r} is not rejected")
        require(any(response.reasons), f"{field} {value!r} is rejected without a reason")
    generic = GenericSpec(
        model_type="no_such_family",
        vocab_size=8,
        hidden_size=8,
        num_layers=1,
        num_kv_heads=1,
        head_dim=8,
        max_positions=8,
        config={},
    )
    response = backend.supports(generic, config)
    require(response.status != "native", "an unknown family is reported as native")
    require(any(response.reasons), "the result for an unknown family has no reason")


def _options(under_test: BackendUnderTest) -> None:
    options = under_test.backend.info.options
    names = [option.name for option in options]
    require(len(set(names)) == len(names), f"an option is declared twice: {names}")
    for option in options:
        require(
            option.name == option.name.lower().replace("_", "-"),
            f"the name `{option.name}` must be in lower case with hyphens",
        )
        require(bool(option.help), f"`{option.name}` has no help text")
        is_choice = not option.choices or option.default in option.choices
        require(
            is_choice, f"the default of `{option.name}` is not among its choices {option.choices}"
        )


def _alone(under_test: BackendUnderTest) -> None:
    point = _entry_point(under_test)
    others = {
        p.module for p in metadata.entry_points(group=point.group) if p.module != point.module
    }
    code = (
        "import sys\n"
        "from tgi.plugins import BackendRegistry\n"
        f"BackendRegistry().candidate({point.name!r})\n"
        f"print(*(set(sys.modules) & set({sorted(others)!r})))"
    )
    imported = _run(code).split()
    foreign = [
        name
        for name in imported
        if not point.module.startswith(name) and name.split(".")[0] != point.module.split(".")[0]
    ]
    require(not foreign, f"selecting `{point.name}` imports {foreign}")


CHECKS: Sequence[Check] = (
    Check(
        "C-01", "packaging", "one entry point, in a distribution that requires tgi", _entry_points
    ),
    Check("C-02", "packaging", "the hook loads and supports this interface version", _hooks),
    Check("C-03", "packaging", "importing the plugin imports no framework", _framework_free_import),
    Check("C-04", "packaging", "probe returns a result and has no side effects", _probe),
    Check(
        "C-05",
        "packaging",
        "no private module is imported, no foreign module is patched",
        _static_imports,
    ),
    Check(
        "C-06", "packaging", "supports is consistent and gives reasons for a rejection", _supports
    ),
    Check("C-07", "packaging", "options have names, help texts and valid defaults", _options),
    Check("C-08", "packaging", "selecting the backend imports no other backend", _alone),
)
