"""docs/quantization.md lists the formats of quantized checkpoints."""

import re

from tests.core.house.sources import ROOT
from tgi.checkpoints.formats.table import FORMATS


def test_the_page_lists_all_formats():
    page = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    table = re.search(r"^\| `quant_method` \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert table is not None
    cells = [row.split("|")[1] for row in table[1].splitlines()]
    named = [name for cell in cells for name in re.findall("`([^`]+)`", cell)]
    assert sorted(named) == sorted(FORMATS)
