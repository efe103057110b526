"""The routes that report the state of the server: info, health, models and metrics."""

import re

from tests.core.server.fake_engine import FakeEngine
from tgi.engine.messages import EngineStats
from tgi.scheduler.records import SchedulerStats


async def test_info_has_exactly_the_keys_of_tgi(make_client):
    async with make_client() as client:
        response = await client.get("/info")
    assert response.headers["content-type"] == "application/json"
    assert (
        response.text == '{"model_id":"tiny","model_sha":null,"model_pipeline_tag":null,'
        '"max_concurrent_requests":2,"max_best_of":2,'
        '"max_stop_sequences":4,"max_input_tokens":48,"max_total_tokens":64,"validation_workers":2,'
        '"max_client_batch_size":4,"router":"text-generation-router","version":"4.0.0","sha":null,'
        '"docker_label":null}'
    )


async def test_backend_info_reports_the_negotiated_limits(make_client):
    async with make_client() as client:
        parsed = (await client.get("/info/backend")).json()
    assert parsed["backend"] == "fake"
    assert parsed["sampling_caps"] == {"top_k": 16}
    assert parsed["kv_cache"] == {"mode": "paged", "block_size": 16, "max_batch_total_tokens": 1024}
    assert parsed["facts"] == {"dtype": "float32"}


async def test_a_browser_gets_a_page_whose_links_exist(make_client):
    accept = {"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
    async with make_client() as client:
        response = await client.get("/", headers=accept)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "<code>tiny</code>" in response.text
        links = re.findall(r'href="([^"]+)"', response.text)
        assert len(links) > 3
        for link in links:
            assert (await client.get(f"/{link}")).status_code in (200, 303), link


async def test_the_page_for_browsers_escapes_the_address(make_client):
    headers = {"accept": "text/html", "host": "<script>"}
    async with make_client() as client:
        response = await client.get("/", headers=headers)
    assert "<script>" not in response.text


async def test_health_is_an_empty_200_or_a_503(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        for path in ("/health", "/ping", "/"):
            response = await client.get(path)
            assert (response.status_code, response.content) == (200, b"")
        engine.is_healthy = False
        response = await client.get("/health")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json() == {"error": "unhealthy", "error_type": "healthcheck"}


async def test_models_lists_the_one_model(make_client):
    async with make_client() as client:
        response = await client.get("/v1/models")
    assert (
        response.text
        == '{"object":"list","data":[{"id":"tiny","object":"model","created":0,"owned_by":"tiny"}]}'
    )


async def test_metrics_are_text_and_contain_the_engine_stats(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        fresh = await client.get("/metrics")
        [listener] = engine.listeners
        listener(EngineStats(SchedulerStats(num_waiting=3)))
        fed = await client.get("/metrics")
    assert fresh.headers["content-type"] == "text/plain; charset=utf-8"
    assert fresh.text == ""
    assert "\ntgi_queue_size 3\n" in fed.text
