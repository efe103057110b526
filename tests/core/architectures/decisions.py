"""Runs the Python code in a decision page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["PAGES", "run_page"]

_FOLDER = Path(__file__).parents[3] / "decisions"

PAGES = tuple(sorted(path.stem for path in _FOLDER.glob("*-spec-*.md")))


def run_page(page: str) -> dict[str, Any]:
    """Run the only Python block of the page. Returns the names that the block defines, including
    `CONFIGS` and `spec`.
    """
    (code,) = re.findall(
        r"```python\n(.*?)```", (_FOLDER / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(compile(code, page, "exec"), names)
    return names
