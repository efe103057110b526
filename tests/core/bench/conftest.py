"""Adds `benchmarks/` to the import path. Its scripts are not installed, and import each other as
top-level modules.
"""

import sys

from tests.core.house.sources import ROOT

sys.path.append(str(ROOT / "benchmarks"))
