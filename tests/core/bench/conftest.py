"""The scripts of `benchmarks/` are run, not installed: here they are imported as they import one
another.
"""

import sys

from tests.core.house.sources import ROOT

sys.path.append(str(ROOT / "benchmarks"))
