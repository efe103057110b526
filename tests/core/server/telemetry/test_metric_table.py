"""The metric table contains TGI's metrics, and the page, the dashboard and a running server agree
with the table.
"""

import asyncio
import json
import re
import runpy

import httpx
import pytest

from tests.core.house.sources import ROOT
from tests.live_server import running_server
from tgi.engine.messages import EngineStats, GuidanceStats
from tgi.scheduler.records import SchedulerStats
from tgi.server.telemetry.metric_table import METRICS, bucket_bounds, metrics_page
from tgi.server.telemetry.metrics import Failure, Metrics, RequestTimes

# The name, type and label of each metric, copied from TGI 3's sources independently of our table.
TGI_SERIES = """
tgi_request_count counter
tgi_request_success counter
tgi_request_failure counter err
tgi_request_duration histogram
tgi_request_validation_duration histogram
tgi_request_queue_duration histogram
tgi_request_inference_duration histogram
tgi_request_mean_time_per_token_duration histogram
tgi_request_generated_tokens histogram
tgi_request_input_length histogram
tgi_request_max_new_tokens histogram
tgi_request_skipped_tokens summary
tgi_queue_size gauge
tgi_batch_next_size histogram
tgi_batch_current_size gauge
tgi_batch_current_max_tokens gauge
tgi_batch_inference_count counter method
tgi_batch_inference_success counter method
tgi_batch_inference_failure counter method
tgi_batch_inference_duration histogram method
tgi_batch_forward_duration histogram method
tgi_batch_decode_duration histogram method
tgi_batch_filter_duration histogram method
tgi_batch_concat_duration histogram method
tgi_batch_concat counter reason
"""
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def names_in(text):
    """Return the names of the metrics in a query or an exposition, without the suffixes of
    histograms and summaries.
    """
    table = {row.name for row in METRICS}
    found = re.findall(r"\btgi_\w+", text)
    return {name if name in table else SUFFIX.sub("", name) for name in found}


def queries():
    document = json.loads((ROOT / "docker" / "grafana.json").read_text())
    return [target["expr"] for panel in document["panels"] for target in panel.get("targets", ())]


def test_the_table_equals_that_of_tgi():
    assert [
        f"{row.name} {row.kind} {row.label}".strip()
        for row in METRICS
        if not row.name.startswith("tgi_grammar_")
    ] == TGI_SERIES.strip().splitlines()


def test_buckets():
    rows = {row.name: row for row in METRICS}
    durations = bucket_bounds(rows["tgi_request_duration"], 100, 200)
    assert (len(durations), round(durations[0], 8), round(durations[-1], 1)) == (35, 0.00015, 145.6)
    assert bucket_bounds(rows["tgi_request_input_length"], 100, 200) == list(range(1, 101))
    assert bucket_bounds(rows["tgi_request_max_new_tokens"], 100, 200) == list(range(2, 202, 2))
    assert bucket_bounds(rows["tgi_batch_next_size"], 100, 200) == list(range(1, 1025))
    assert {row.name for row in METRICS if row.kind == "histogram"} == {
        row.name for row in METRICS if row.buckets
    }
    with pytest.raises(ValueError, match="has no buckets"):
        bucket_bounds(rows["tgi_queue_size"], 1, 2)


def test_every_metric_is_updated_and_label_values_are_those_of_the_table():
    metrics = Metrics(100, 200)
    metrics.count_request()
    for failure in Failure:
        metrics.count_failure(failure)
    metrics.observe_valid_request(1, 1)
    metrics.observe_success(RequestTimes(0.1, 0.1, 0.1, 1))
    for reason in ("backpressure", "wait_exceeded", "chunking"):
        for method in ("prefill", "decode"):
            stats = SchedulerStats(
                method=method,
                num_decode_rows=1,
                num_new_sequences=1,
                has_joined=True,
                join_reason=reason,
            )
            metrics.observe_step(EngineStats(stats))
            metrics.observe_step(EngineStats(stats, is_failed=True))
    metrics.count_rejected_grammar()
    metrics.observe_step(EngineStats(SchedulerStats(), guidance=GuidanceStats(1, 1, 1, 1, 1, 1)))
    text = metrics.render()
    assert names_in(text) == {row.name for row in METRICS}
    for row in METRICS:
        values = (
            set(re.findall(rf'^{row.name}\w*{{{row.label}="(\w+)"', text, re.MULTILINE))
            if row.label
            else set()
        )
        assert values == set(row.values), row.name


def test_a_failed_step_is_not_counted_as_a_success():
    metrics = Metrics(100, 200)
    metrics.observe_step(
        EngineStats(SchedulerStats(method="decode", num_decode_rows=1), is_failed=True)
    )
    text = metrics.render()
    assert 'tgi_batch_inference_failure{method="decode"} 1\n' in text
    assert "tgi_batch_inference_success" not in text
    assert "tgi_batch_forward_duration" not in text


def test_the_work_for_grammars_is_counted():
    metrics = Metrics(100, 200)
    metrics.observe_step(EngineStats(SchedulerStats()))
    assert "tgi_grammar" not in metrics.render()
    work = GuidanceStats(
        mask_ns=3_000_000, num_masks=5, num_compiled=2, compile_ns=8_000_000, num_hits=4
    )
    for stats in (SchedulerStats(method="decode"), SchedulerStats()):
        metrics.observe_step(EngineStats(stats, guidance=work))
    text = metrics.render()
    assert "tgi_grammar_mask_count 10\n" in text
    assert "tgi_grammar_cache_hit 8\n" in text
    assert "tgi_grammar_mask_duration_sum 0.006\n" in text
    assert "tgi_grammar_mask_duration_count 2\n" in text
    assert "tgi_grammar_compile_duration_sum 0.016\n" in text
    assert "tgi_grammar_compile_duration_count 4\n" in text
    assert "tgi_grammar_error" not in text


def test_the_page_equals_the_table():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == metrics_page(), (
        "run: python -m tgi.server.telemetry.metric_table > docs/metrics.md"
    )


def test_the_dashboard_is_generated_from_its_source():
    made = runpy.run_path(str(ROOT / "docker" / "dashboard.py"))["dashboard"]()
    text = (ROOT / "docker" / "grafana.json").read_text()
    assert json.loads(text) == made, "run: python docker/dashboard.py > docker/grafana.json"


def test_every_metric_has_a_panel_and_every_panel_a_metric():
    assert names_in(" ".join(queries())) == {row.name for row in METRICS}
    values = {row.name: row.values for row in METRICS}
    for query in queries():
        for name, conditions in re.findall(r"\b(tgi_\w+?)(?:_bucket|_sum)?\{([^}]*)\}", query):
            assert set(re.findall(r'\w+="(\w+)"', conditions)) <= set(values.get(name, ())), query


# These series have no value on a server without failed steps and without grammars. They are tested
# above.
RARE = {"tgi_batch_inference_failure"} | {
    row.name + suffix
    for row in METRICS
    if row.name.startswith("tgi_grammar_")
    for suffix in ("", "_bucket", "_sum", "_count")
}


async def test_every_query_matches_a_metric_of_a_running_server(tmp_path, tiny_model):
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 60}}
    with running_server(
        tiny_model, "null", tmp_path / "log", "--max-concurrent-requests", "64"
    ) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            await client.post("/generate", json={**body, "parameters": {"max_new_tokens": 0}})
            for _ in range(20):
                responses = await asyncio.gather(
                    *(client.post("/generate", json=body) for _ in range(16))
                )
                assert {response.status_code for response in responses} == {200}
                text = (await client.get("/metrics")).text
                if "tgi_batch_concat_duration" in text:
                    break
    served = {line.split()[0] for line in text.splitlines() if line and not line.startswith("#")}
    for query in queries():
        for name, conditions in re.findall(r"\b(tgi_\w+)\{([^}]*)\}", query):
            if name not in RARE:
                wanted = re.findall(r'\w+="\w+"', conditions)
                hits = [
                    sample
                    for sample in served
                    if sample.partition("{")[0] == name and all(w in sample for w in wanted)
                ]
                assert hits, f"{name} {wanted}"
