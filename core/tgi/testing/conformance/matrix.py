"""The support matrix: a table of all scorecards in a folder.

`python -m tgi.testing.conformance.matrix FOLDER` writes the table to `FOLDER/README.md`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from tgi.backend import FEATURES, SAMPLING_FIELDS
from tgi.testing.conformance.scorecard import ScorecardRecord

__all__ = ["render_matrix"]

_HEAD = """# Backends

The results of each backend in the conformance suite. This page is generated from the scorecards in
this folder. To update it, run `tgi conformance NAME --json docs/backends/NAME.json` and
`python -m tgi.testing.conformance.matrix docs/backends`. A backend that needs hardware is listed
after its scorecard was created on that hardware.
"""
_NOTE = """
`yes` for a feature means that it was negotiated and that all applicable checks passed. `negotiated`
means that the suite has no check for it yet. `compiled for` lists devices for which whole steps
were compiled on a machine without such a device (`compiled/`). Nothing has run on them.
"""


class _CompiledRecord(msgspec.Struct):
    """The record of a compilation for devices that the machine does not have."""

    compiled_for: list[str]


def render_matrix(folder: Path) -> str:
    """Render the page for the scorecards (`*.json`) in `folder`."""
    cards = {
        path.stem: msgspec.json.decode(path.read_bytes(), type=ScorecardRecord)
        for path in sorted(folder.glob("*.json"), key=lambda path: path.stem)
    }
    names = list(cards)
    summary = [["conformance level", *(card.grade or "none" for card in cards.values())]]
    summary.append(["package", *(card.package for card in cards.values())])
    summary.append(["cache", *(card.kv_cache for card in cards.values())])
    summary.append(["dtype", *(card.facts.get("dtype", "") for card in cards.values())])
    if any("platform" in card.facts for card in cards.values()):
        summary.append(["platform", *(card.facts.get("platform", "") for card in cards.values())])
    compiled = {name: _compiled_for(folder, name) for name in names}
    if any(compiled.values()):
        summary.append(["compiled for", *compiled.values()])
    limits = ("mixed", "chunked", "max_prefills", "depth")
    summary += [
        [f"`{limit}`", *(_shown(card.limits.get(limit, "")) for card in cards.values())]
        for limit in limits
    ]
    features = [
        [f"`{name}`", *(_feature(card, name) for card in cards.values())]
        for name in sorted(FEATURES)
    ]
    fields = [
        [f"`{name}`", *("yes" if name in card.sampling else "" for card in cards.values())]
        for name in sorted(SAMPLING_FIELDS)
    ]
    ids = dict.fromkeys(row.id for card in cards.values() for row in card.results)
    titles = {row.id: row.title for card in cards.values() for row in card.results}
    outcome = [{row.id: row.status for row in card.results} for card in cards.values()]
    checks = [
        [f"{id_} {titles[id_]}", *(results.get(id_, "") for results in outcome)] for id_ in ids
    ]
    parts = [
        _table("", names, summary),
        _table("features", names, features),
        _table("sampling", names, fields),
    ]
    return "\n".join([_HEAD, *parts, _table("checks", names, checks)]) + _NOTE


def _compiled_for(folder: Path, name: str) -> str:
    path = folder / "compiled" / f"{name}.json"
    return (
        ", ".join(msgspec.json.decode(path.read_bytes(), type=_CompiledRecord).compiled_for)
        if path.exists()
        else ""
    )


def _feature(card: ScorecardRecord, name: str) -> str:
    if name in card.features:
        return "yes"
    return "negotiated" if name in card.agreed else ""


def _shown(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _table(title: str, names: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join([title, *names])} |", "|" + "---|" * (len(names) + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "README.md").write_text(render_matrix(place), encoding="utf-8")
