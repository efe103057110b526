"""The exposition in Prometheus' text format, with TGI's names."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tgi.engine.messages import EngineStats
from tgi.scheduler.records import SchedulerStats
from tgi.server.telemetry.exposition import Counter, Summary, render
from tgi.server.telemetry.metrics import Failure, Metrics, RequestTimes


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


@pytest.fixture
def metrics():
    return Metrics(max_input_tokens=100, max_total_tokens=200)


def test_a_fresh_server_exports_nothing(metrics):
    assert metrics.render() == ""


def test_counters_have_no_total_suffix(metrics):
    metrics.count_request()
    assert (
        metrics.render()
        == "# HELP tgi_request_count Total number of requests\n# TYPE tgi_request_count"
        " counter\ntgi_request_count 1\n\n"
    )


def test_failures_are_counted_by_kind(metrics):
    metrics.count_failure(Failure.DROPPED)
    metrics.count_failure(Failure.DROPPED)
    metrics.count_failure(Failure.VALIDATION)
    samples = families(metrics.render())["tgi_request_failure"].samples
    assert {sample.labels["err"]: sample.value for sample in samples} == {
        "dropped": 2,
        "validation": 1,
    }


def test_a_finished_request_updates_the_histograms(metrics):
    metrics.observe_valid_request(input_length=10, max_new_tokens=5000)
    metrics.observe_success(
        RequestTimes(validation=0.25, queue=0.5, inference=1.0, num_generated_tokens=4)
    )
    found = families(metrics.render())
    sums = {
        s.name: s.value
        for family in found.values()
        for s in family.samples
        if s.name.endswith("_sum")
    }
    assert sums == {
        "tgi_request_input_length_sum": 10,
        "tgi_request_max_new_tokens_sum": 1024,
        "tgi_request_duration_sum": 1.75,
        "tgi_request_validation_duration_sum": 0.25,
        "tgi_request_queue_duration_sum": 0.5,
        "tgi_request_inference_duration_sum": 1.0,
        "tgi_request_mean_time_per_token_duration_sum": 0.25,
        "tgi_request_generated_tokens_sum": 4,
    }


def test_buckets_are_cumulative_and_those_of_tgi(metrics):
    metrics.observe_success(RequestTimes(0.0, 0.0, 0.0002, 4))
    text = metrics.render()
    buckets = [
        s for s in families(text)["tgi_request_duration"].samples if s.name.endswith("_bucket")
    ]
    assert len(buckets) == 36
    assert buckets[0].labels["le"] == "0.00015000000000000001"
    assert [s.value for s in buckets[:3]] == [0, 1, 1]
    assert (buckets[-1].labels["le"], buckets[-1].value) == ("+Inf", 1)
    generated = [
        s
        for s in families(text)["tgi_request_generated_tokens"].samples
        if s.name.endswith("_bucket")
    ]
    assert [s.labels["le"] for s in generated[:3]] == ["2", "4", "6"]
    assert [s.value for s in generated[:3]] == [0, 1, 1]


def test_engine_steps_update_the_batch_metrics(metrics):
    stats = SchedulerStats(
        num_waiting=3,
        num_running=2,
        num_used_tokens=64,
        method="prefill",
        num_new_sequences=2,
        has_joined=True,
    )
    metrics.observe_step(EngineStats(stats, step_ns=2_000_000, forward_ns=1_000_000))
    metrics.observe_step(EngineStats(SchedulerStats(num_decode_rows=2, method="decode")))
    found = families(metrics.render())
    assert found["tgi_queue_size"].samples[0].value == 0
    assert {s.labels["method"] for s in found["tgi_batch_inference_count"].samples} == {
        "prefill",
        "decode",
    }
    assert found["tgi_batch_concat"].samples[0].labels == {"reason": "chunking"}
    forward = {
        (s.name, s.labels.get("method")): s.value
        for s in found["tgi_batch_forward_duration"].samples
    }
    assert forward["tgi_batch_forward_duration_sum", "prefill"] == 0.001
    assert {
        s.value for s in found["tgi_request_skipped_tokens"].samples if s.name.endswith("_count")
    } == {2}


def test_labels_precede_the_bucket_bound(metrics):
    metrics.observe_step(EngineStats(SchedulerStats(method="decode")))
    assert 'tgi_batch_forward_duration_bucket{method="decode",le="+Inf"} 1\n' in metrics.render()


def test_counters_come_before_gauges_before_histograms(metrics):
    metrics.observe_step(EngineStats(SchedulerStats(method="decode", num_decode_rows=1)))
    metrics.count_request()
    kinds = [
        line.split()[-1] for line in metrics.render().splitlines() if line.startswith("# TYPE")
    ]
    assert kinds == sorted(kinds, key={"counter": 0, "gauge": 1, "histogram": 2, "summary": 2}.get)
    assert len(set(kinds)) == 4


def test_quantiles_cover_the_last_minute_only():
    now = [0.0]
    summary = Summary("s", clock=lambda: now[0])
    summary.observe(10.0, times=1)
    now[0] = 50.0
    summary.observe(1.0, times=9)
    assert {label: value for _, label, value in summary.samples()}['quantile="0.5"'] == 1.0
    assert {label: value for _, label, value in summary.samples()}['quantile="1"'] == 10.0
    now[0] = 100.0
    values = {(suffix, label): value for suffix, label, value in summary.samples()}
    assert values["", 'quantile="1"'] == 1.0
    assert values["_sum", ""] == 19.0
    now[0] = 200.0
    assert {value for suffix, _, value in summary.samples() if not suffix} == {0.0}


def test_label_values_are_escaped():
    counter = Counter("c", label="name")
    counter.increment('a"b\\c\nd')
    [family] = text_string_to_metric_families(render([counter]))
    assert family.samples[0].labels == {"name": 'a"b\\c\nd'}
