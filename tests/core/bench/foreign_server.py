"""A server with OpenAI's routes, as another project might write it. It rejects unknown fields, and
its `/tokenize` has another schema than ours.
"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KNOWN_FIELDS = {"model", "prompt", "max_tokens", "stream", "temperature", "stream_options"}


class ForeignServer(ThreadingHTTPServer):
    """If `fail_every` is n, each n-th stream stops before its finish reason. If `hold` is n,
    generations for prompts of two or more words block until n of them are waiting.
    """

    daemon_threads = True

    def __init__(self, fail_every=0, hold=0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fail_every = fail_every
        self.barrier = threading.Barrier(hold) if hold else None
        self.lock = threading.Lock()
        self.num_running = self.most_running = self.num_generations = 0
        self.prompts = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def foreign_server(**arguments):
    """Run a `ForeignServer` in a thread."""
    with ForeignServer(**arguments) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self._json(200, {"data": [{"id": "foreign-1"}]} if self.path == "/v1/models" else {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize" and "prompt" in body:
            self._json(200, {"count": 1 + len(body["prompt"].split()), "tokens": None})
        elif self.path != "/v1/completions":
            self._json(404, {"detail": "Not Found"})
        elif unknown := sorted(set(body) - KNOWN_FIELDS):
            self._json(422, {"detail": f"unknown fields {unknown}"})
        else:
            self._generate(body)

    def _generate(self, body):
        server = self.server
        with server.lock:
            server.num_running += 1
            server.num_generations += 1
            server.most_running = max(server.most_running, server.num_running)
            server.prompts.append(body["prompt"])
            fails = server.fail_every and server.num_generations % server.fail_every == 0
        if server.barrier is not None and len(body["prompt"].split()) > 1:
            server.barrier.wait(10)
        self._events(body, fails)
        with server.lock:
            server.num_running -= 1

    def _events(self, body, fails):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for number in range(body["max_tokens"]):
            finish = "length" if number + 1 == body["max_tokens"] else None
            self._event({"id": "c-1", "choices": [{"text": f" {number}", "finish_reason": finish}]})
            if fails:
                return
        prompt_tokens = 1 + len(body["prompt"].split())
        self._event(
            {
                "choices": [],
                "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": body["max_tokens"]},
            }
        )
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, event):
        self.wfile.write(b"data: %b\n\n" % json.dumps(event).encode())

    def _json(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
