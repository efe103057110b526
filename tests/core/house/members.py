"""The packages below `backends/`, read from their `pyproject.toml`, and the lists in other files of
the repository that must name each package.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

# The subpackages of the core that backends may import.
PUBLIC = frozenset({"architectures", "backend", "checkpoints", "testing", "worker"})


@dataclass(frozen=True)
class Member:
    """One package of the workspace. `backends` are the names of its entry points. A library for
    backends has no entry points.
    """

    folder: str
    name: str
    package: str
    version: str
    dependencies: tuple[str, ...]
    backends: tuple[str, ...]


def members_of(root: Path) -> list[Member]:
    """Return the packages with a `backends/*/pyproject.toml`, sorted by folder."""
    return [_member(path) for path in sorted(root.glob("backends/*/pyproject.toml"))]


def _member(path: Path) -> Member:
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    project = config["project"]
    return Member(
        folder=f"backends/{path.parent.name}",
        name=project["name"],
        package=project["name"].replace("-", "_"),
        version=project["version"],
        dependencies=tuple(project["dependencies"]),
        backends=tuple(project.get("entry-points", {}).get("tgi.backends", {})),
    )


@dataclass(frozen=True)
class NamedList:
    """A list in a file of the repository, with its actual content and its required content."""

    place: str
    found: tuple[str, ...]
    expected: tuple[str, ...]

    @property
    def problem(self) -> str:
        """A message with the names to add or remove. Empty if the list is correct."""
        missing = sorted(set(self.expected) - set(self.found))
        surplus = sorted(set(self.found) - set(self.expected))
        twice = sorted({name for name in self.found if self.found.count(name) > 1})
        actions = (("add", missing), ("remove", surplus), ("name once", twice))
        text = "; ".join(f"{action} {', '.join(names)}" for action, names in actions if names)
        return f"{self.place}: {text}" if text else ""


def named_lists(root: Path, version: str) -> list[NamedList]:
    """Return every list that names the members."""
    members = members_of(root)
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return [
        *_tool_lists(config["tool"], members),
        *_contract_lists(root, config["tool"]["importlinter"], members),
        *_distribution_lists(root, config["project"], members, version),
    ]


def _tool_lists(tool: dict, members: list[Member]) -> list[NamedList]:
    folders = tuple(member.folder for member in members)
    names = tuple(member.name for member in members)
    packages = tuple(member.package for member in members)
    mypy, place = tool["mypy"], "pyproject.toml, tool"
    return [
        NamedList(
            f"{place}.uv.workspace.members",
            _list(tool["uv"]["workspace"]["members"]),
            ("backends/*",),
        ),
        NamedList(f"{place}.uv.sources", tuple(tool["uv"]["sources"]), ("tgi", *names)),
        NamedList(f"{place}.ruff.src", _list(tool["ruff"]["src"]), ("core", ".", *folders)),
        NamedList(f"{place}.mypy.mypy_path", _list(mypy["mypy_path"]), ("core", *folders)),
        NamedList(f"{place}.mypy.packages", _list(mypy["packages"]), ("tgi", *packages)),
        NamedList(
            f"{place}.importlinter.root_packages",
            _list(tool["importlinter"]["root_packages"]),
            ("tgi", *packages),
        ),
    ]


def _contract_lists(root: Path, linter: dict, members: list[Member]) -> list[NamedList]:
    contracts = linter["contracts"]
    (core,) = (c for c in contracts if "forbidden_modules" in c and _is_about_core(c))
    (order,) = (c for c in contracts if c["type"] == "layers" and "containers" not in c)
    (inside,) = (c for c in contracts if c["type"] == "layers" and "containers" in c)
    backends = [member.package for member in members if member.backends]
    libraries = [member.package for member in members if not member.backends]
    subpackages = {path.parent.name for path in root.glob("core/tgi/*/__init__.py")}
    place = "pyproject.toml, import contract"
    upper, lower = (f"{place} `{order['id']}`, {end}" for end in ("first layer", "other layers"))
    first, *others = (tuple(layer.split(" | ")) for layer in order["layers"])
    layers = tuple(name for layer in inside["layers"] for name in layer.split(" | "))
    return [
        NamedList(
            f"{place} `{core['id']}`, source_modules",
            _list(core["source_modules"]),
            tuple(member.package for member in members),
        ),
        NamedList(
            f"{place} `{core['id']}`, forbidden_modules",
            _list(core["forbidden_modules"]),
            tuple(f"tgi.{name}" for name in subpackages - PUBLIC),
        ),
        NamedList(upper, first, tuple(backends)),
        NamedList(lower, tuple(name for layer in others for name in layer), tuple(libraries)),
        NamedList(f"{place} `{inside['id']}`, layers", layers, (*subpackages, "errors", "types")),
    ]


def _is_about_core(contract: dict) -> bool:
    return all(name.startswith("tgi.") for name in contract["forbidden_modules"])


def _distribution_lists(
    root: Path, project: dict, members: list[Member], version: str
) -> list[NamedList]:
    extras = {
        extra: requirement
        for extra, requirements in project["optional-dependencies"].items()
        for requirement in requirements
        if requirement.startswith("tgi-")
    }
    backends = {name: member for member in members for name in member.backends}
    pinned = {member.name: f"{member.name}=={version}" for member in members}
    lists = [
        NamedList("pyproject.toml, extras for backends", tuple(extras), tuple(backends)),
        NamedList(
            "pyproject.toml, requirements of the extras for backends",
            tuple(re.sub(r"\[.*\]", "", requirement) for requirement in extras.values()),
            tuple(pinned[member.name] for member in backends.values()),
        ),
        NamedList(
            "scorecards in docs/backends",
            tuple(n for n in backends if (root / "docs" / "backends" / f"{n}.json").is_file()),
            tuple(backends),
        ),
    ]
    for member in members:
        own = tuple(d for d in member.dependencies if re.match(r"tgi(-\w+)?(\W|$)", d))
        named = {re.split(r"\W*==", requirement)[0] for requirement in own}
        lists.append(
            NamedList(
                f"{member.folder}/pyproject.toml, requirements of this project",
                own,
                tuple(f"{name}=={version}" for name in named | {"tgi"}),
            )
        )
        lists.append(
            NamedList(f"{member.folder}/pyproject.toml, version", (member.version,), (version,))
        )
    return lists


def _list(names: list[str]) -> tuple[str, ...]:
    return tuple(names)
