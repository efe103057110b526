"""The output during startup."""

import io
import logging

import pytest
from rich.console import Console

from tgi.backend import Agreement, CacheGroup, KVCachePlan, Limits, MemoryItem
from tgi.cli.log import configure_logging
from tgi.cli.start_display import StartDisplay, format_bytes, memory_lines
from tgi.engine.messages import Progress


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "tgi")
    return lambda: caplog.messages


def test_a_plain_line_is_printed_per_phase_and_at_most_every_five_seconds(lines):
    clock, display_console = Clock(), Console(file=io.StringIO())
    display = StartDisplay(display_console, clock)
    display.phase("model", "m")
    for percent in range(0, 101, 10):
        clock.seconds += 1
        display.progress(Progress("load", percent, 100))
    display.progress(Progress("log", text="ready soon"))
    display.ready("http://x:1")
    assert lines() == [
        "model: m",
        "load",
        "load: 50 %",
        "load: 100 %",
        "ready soon",
        "ready: http://x:1 after 11.0 s",
        "Connected",
    ]


def test_a_terminal_gets_a_bar(lines):
    screen = io.StringIO()
    display = StartDisplay(Console(file=screen, force_terminal=True, width=80), Clock())
    display.progress(Progress("load", 1 << 20, 2 << 20))
    display.close()
    assert "1.0/2.1 MB" in screen.getvalue()
    assert lines() == ["load"]


def test_memory_lines_show_the_memory_items_and_limits():
    plan = KVCachePlan("paged", 16, (CacheGroup("full", 1000),))
    memory = (MemoryItem("weights", 3 << 20, "bfloat16"),)
    limits = Limits(max_total_tokens=2048, max_sequences=8, max_step_tokens=512)
    text = "\n".join(memory_lines(Agreement((1, 0), (), limits, plan, 10, (), memory=memory)))
    for part in ("3.0 MiB  bfloat16", "2,048", "16,000", "512", "8"):
        assert part in text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 55, "32768.0 TiB"),
    ],
)
def test_bytes(number, text):
    assert format_bytes(number) == text


@pytest.fixture
def kept_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines_have_tgis_fields(kept_logging):
    configure_logging("info,other=debug", True)
    record = logging.LogRecord("tgi", logging.INFO, "", 0, "Connected", (), None)
    line = kept_logging.handlers[0].format(record)
    assert '"level":"INFO","message":"Connected","target":"tgi"' in line
    assert kept_logging.level == logging.INFO
    configure_logging("warn", False)
    assert kept_logging.level == logging.WARNING
    assert kept_logging.handlers[0].format(record).endswith("INFO tgi: Connected")
