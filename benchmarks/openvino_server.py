"""A minimal server for OpenVINO GenAI, which is an engine without a server. It provides `/health`,
`/tokenize` and `/v1/completions` with streaming.

    python benchmarks/openvino_server.py MODEL_FOLDER PORT THREADS

This file runs in OpenVINO's environment and uses only its packages. One thread runs the steps of
the engine. Each HTTP request has a thread that waits for its tokens.
"""

from __future__ import annotations

import itertools
import json
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openvino_genai

_CACHE_GB = 4
_MAX_STEP_TOKENS = 2048


class Engine:
    """Runs the steps of the pipeline in a thread, and passes new tokens to the requests."""

    def __init__(self, model: str, threads: int) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = _CACHE_GB
        scheduler.max_num_batched_tokens = _MAX_STEP_TOKENS
        scheduler.enable_prefix_caching = True
        properties = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            model, scheduler, "CPU", properties
        )
        self.tokenizer = self._pipeline.get_tokenizer()
        self._ids = itertools.count()
        self._waiting: queue.Queue[tuple[str, int, queue.Queue[list[int] | None]]] = queue.Queue()
        self._live: list[tuple[Any, queue.Queue[list[int] | None]]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def generate(self, prompt: str, num_tokens: int) -> queue.Queue[list[int] | None]:
        """Submit a prompt. Returns a queue of lists of token ids, which ends with None."""
        tokens: queue.Queue[list[int] | None] = queue.Queue()
        self._waiting.put((prompt, num_tokens, tokens))
        return tokens

    def _run(self) -> None:
        while True:
            while not self._waiting.empty() or not self._live:
                self._add(*self._waiting.get())
            self._pipeline.step()
            self._live = [entry for entry in self._live if self._deliver(*entry)]

    def _add(self, prompt: str, num_tokens: int, tokens: queue.Queue[list[int] | None]) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = num_tokens, True, False
        self._live.append((self._pipeline.add_request(next(self._ids), prompt, config), tokens))

    @staticmethod
    def _deliver(handle: Any, tokens: queue.Queue[list[int] | None]) -> bool:  # noqa: ANN401 - a type of the extension
        """Put a request's new tokens into its queue. Returns False if the request has ended."""
        while handle.can_read():
            for output in handle.read().values():
                tokens.put(list(output.generated_ids))
        if handle.get_status() == openvino_genai.GenerationStatus.RUNNING:
            return True
        tokens.put(None)
        return False


def handler(engine: Engine) -> type[BaseHTTPRequestHandler]:
    """Return a request handler class for `engine`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/tokenize" and "content" in body:
                self._send_json(
                    {"tokens": engine.tokenizer.encode(body["content"]).input_ids.data[0].tolist()}
                )
            elif self.path == "/v1/completions":
                self._stream(body)
            else:
                self.send_error(404)

        def _send_json(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            tokens, count = engine.generate(body["prompt"], body["max_tokens"]), 0
            while (ids := tokens.get()) is not None:
                count += len(ids)
                finish = "length" if count >= body["max_tokens"] else None
                self._event(
                    {"choices": [{"text": engine.tokenizer.decode(ids), "finish_reason": finish}]}
                )
            self._event({"choices": [], "usage": {"completion_tokens": count}})

        def _event(self, event: dict[str, Any]) -> None:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    return Handler


if __name__ == "__main__":
    served = handler(Engine(sys.argv[1], int(sys.argv[3])))
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), served).serve_forever()
