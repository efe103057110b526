"""`tgi bench` against our server and a foreign one: loads, prompt lengths and reports."""

import asyncio
import csv
import io
import json
import random
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tests.core.bench.foreign_server import foreign_server
from tests.live_server import free_port, running_server
from tgi.bench import (
    Endpoint,
    Panel,
    Progress,
    PromptMaker,
    csv_report,
    find_target,
    learn_tokenizer,
    run_load,
    svg_plot,
)
from tgi.bench.live_table import LiveTable
from tgi.bench.load import Load
from tgi.bench.stream_result import StreamResult
from tgi.bench.summary import spread, summarize
from tgi.cli import main


def bench(*arguments):
    return main(["bench", *map(str, arguments)])


def test_a_server_of_tgi(tmp_path, tiny_model, capsys):
    files = [word for name in ("json", "csv", "plot") for word in (f"--{name}", tmp_path / name)]
    with running_server(tiny_model, "null", tmp_path / "log") as server:
        assert bench(server.url, "-u", "1,3", "-d", 5, "-s", 12, *files) == 0
        assert bench(server.url, "--route", "/v1/chat/completions", "-u", 2, "-d", 5, "-s", 12) == 0
        assert bench("--url", server.url, "--rate", 50, "-r", 1, "-d", 2) == 0
    report = json.loads((tmp_path / "json").read_text())
    assert report["settings"]["route"] == "/generate_stream"
    assert [(run["requests"], run["output_tokens"], run["valid"]) for run in report["runs"]] == [
        (3, 15, True),
        (9, 45, True),
    ]
    # The server truncates the prompts to this length, since a word is not always one token.
    assert [run["prompt_tokens"] for run in report["runs"]] == [12, 12]
    lines = list(csv.DictReader(io.StringIO((tmp_path / "csv").read_text())))
    assert [line["users"] for line in lines] == ["1", "3"]
    ElementTree.parse(tmp_path / "plot")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == (2 + 2) + (2 + 1) + (2 + 1)
    assert rows[-1].split("|")[1].strip() == "50/s"


def test_a_foreign_server_that_rejects_unknown_fields(capsys, tmp_path):
    with foreign_server() as server:
        assert bench(server.url, "-u", 4, "-r", 2, "-d", 3, "-s", 20, "--json", tmp_path / "r") == 0
        assert server.most_running <= 4
    report = json.loads((tmp_path / "r").read_text())
    settings = report["settings"]
    assert (settings["route"], settings["model"], settings["ignore_eos"]) == (
        "/v1/completions",
        "foreign-1",
        False,
    )
    assert settings["prompt_lengths"] == "exact, by /tokenize"
    assert report["runs"][0]["prompt_tokens"] == 20
    assert report["runs"][0]["counted_by"] == "server"
    assert report["runs"][0]["request_ids"] == ["c-1"] * 8
    measured = server.prompts[-8:]
    assert len(set(measured)) == 8


def test_a_failed_request_makes_a_run_invalid(capsys):
    with foreign_server(fail_every=4) as server:
        assert bench(server.url, "-u", 2, "-r", 4, "-d", 3) == 1
    shown = capsys.readouterr()
    assert "2 INVALID" in shown.out
    assert "after 1 tokens without a finish reason" in shown.err


def test_prompts_with_a_shared_prefix():
    with foreign_server() as server:
        assert bench(server.url, "-u", 2, "-r", 2, "-s", 40, "--shared-tokens", 30, "-d", 2) == 0
    measured = [prompt.split() for prompt in server.prompts[-4:]]
    assert len({tuple(words[:29]) for words in measured}) == 1
    assert len({tuple(words) for words in measured}) == 4
    assert {len(words) for words in measured} == {39}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["here"], 2, "'here' is not an address such as http://127.0.0.1:3000"),
        (["-d", "0"], 2, "`--output-tokens` must be >= 1. Given: 0."),
        (["-u", "1,0"], 2, "`--users` must be >= 1. Given: 0."),
        (["--rate", "0"], 2, "`--rate` must be > 0. Given: 0."),
        (["--rate", "1", "-u", "1"], 2, "cannot be combined"),
        (
            ["--shared-tokens", "9", "-s", "9"],
            2,
            "`--shared-tokens` must be < `--prompt-tokens`(9). Given: 9.",
        ),
        ([f"http://127.0.0.1:{free_port()}"], 1, "cannot be reached"),
    ],
)
def test_invalid_arguments(arguments, status, message, capsys):
    assert bench(*arguments) == status
    assert message in capsys.readouterr().err


def test_a_server_without_a_stream(capsys):
    with foreign_server() as server:
        assert bench(server.url, "--route", "/generate_stream") == 1
    assert "/generate_stream: status 404" in capsys.readouterr().err


def test_open_loop_requests_do_not_wait_for_responses():
    with foreign_server(hold=3) as server:

        async def run():
            target = await find_target(Endpoint.parse(server.url))
            load = Load(num_users=1, num_requests=3, num_output_tokens=2, rate=1000.0)
            return await run_load(target, load, ["a b", "c d", "e f"], 0, Progress())

        results, _ = asyncio.run(run())
    # The server sends no response until it has received all three requests.
    assert [result.error for result in results] == [""] * 3


def test_closed_loop_users_wait_for_their_responses():
    with foreign_server() as server:

        async def run():
            target = await find_target(Endpoint.parse(server.url))
            server.most_running = 0
            await run_load(target, Load(2, 10, 2), ["a b"] * 10, 0, Progress())

        asyncio.run(run())
        assert server.most_running <= 2


def test_without_a_tokenizer_a_word_counts_as_a_token():
    with foreign_server() as server:
        endpoint = Endpoint.parse(f"{server.url}/elsewhere")
        maker = asyncio.run(learn_tokenizer(endpoint, "m"))
    assert maker == PromptMaker()
    assert len(maker.prompt(random.Random(0), 7).split()) == 7


def test_percentiles():
    found = spread([0.001 * n for n in range(101)])
    assert (found.mean, found.p50, found.p90, found.p95, found.p99) == (50, 50, 90, 95, 99)
    assert spread([0.002]).p99 == 2
    assert spread([]) is None


def test_a_run_without_a_successful_stream_has_no_times(capsys):
    run = summarize(Load(1, 2, 3), [StreamResult(error="no")] * 2, 0.0, 1.0)
    assert (run.valid, run.ttft_ms, run.output_tokens_per_second) == (False, None, 0)
    assert "ttft_p50_ms" in csv_report([run])


def test_the_plot_is_xml_with_a_point_per_value():
    panel = Panel("a < b", ["1", "2", "3"], {"x": [1.0, None, 3.0], "y & z": [2.0, 2.0, 2.0]})
    root = ElementTree.fromstring(svg_plot("t", [panel, panel]))
    assert len(root.findall(".//{*}circle")) == 2 * 5
    assert len(root.findall(".//{*}line[@stroke-width]")) == 2 * 2
    assert "y & z" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_live_table_shows_runs_and_progress():
    console = Console(force_terminal=True, width=160, file=io.StringIO())
    with LiveTable("a server", console) as table:
        table.watch("2 users", 6)(Progress(num_done=3, num_failed=1, num_events=9))
        table.add(summarize(Load(2, 1, 3), [StreamResult(error="no")], 0.0, 1.0))
    shown = console.file.getvalue()
    assert "2 users: 4 of 6 requests, 1 failed" in shown
    assert "1 INVALID" in shown


def test_the_live_table_cuts_no_number_in_80_columns():
    console = Console(force_terminal=True, width=80, file=io.StringIO(), color_system=None)
    times = [0.1 * number for number in range(1, 9)]
    results = [StreamResult(times, 0.8, 8, 5, "length")]
    run = summarize(Load(32, 1, 3), results, 0.0, 1.0)
    run = replace(
        run, output_tokens_per_second=12345.6, requests_per_second=987.65, label="32 users"
    )
    with LiveTable("a server", console) as table:
        table.add(run)
    shown = console.file.getvalue()
    assert "12345.6" in shown
    assert "987.65" in shown
    assert "…" not in shown


def test_a_server_with_a_key_is_named_as_such(tmp_path, tiny_model, capsys):
    words = ("-u", 1, "-r", 1, "-d", 2)
    with running_server(tiny_model, "null", tmp_path / "log", "--api-key", "secret") as server:
        assert bench(server.url, *words) == 1
        assert "requires an API key" in capsys.readouterr().err
        assert bench(server.url, *words, "--api-key", "wrong") == 1
        assert "rejects the API key" in capsys.readouterr().err
        assert bench(server.url, *words, "--api-key", "secret") == 0
