"""A local Hugging Face hub for tests: the routes that a model download uses, with files from a
table.
"""

import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Repository:
    """A model repository. `files` maps names to contents at `commit`, and `refs` maps the names of
    branches, tags and pull requests (refs/pr/N) to commits. If `token` is set, only requests with
    this token may read the repository.
    """

    files: dict[str, bytes]
    commit: str
    refs: dict[str, str]
    pipeline_tag: str | None = None
    token: str | None = None
    is_gated: bool = False


@dataclass
class Hub:
    """The URL of the server, its repositories by name, and the paths that were requested."""

    url: str
    repositories: dict[str, Repository]
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def running_hub(repositories: dict[str, Repository]):
    """Serve `repositories` on a free port. Yields the `Hub`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", repositories)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._response(has_body=True)

    def do_HEAD(self):
        self._response(has_body=False)

    def _response(self, has_body):
        path = unquote(self.path.partition("?")[0]).strip("/")
        self.server.hub.asked.append(path)
        is_api = path.startswith("api/models/")
        words = path.removeprefix("api/models/").split("/")
        name, rest = "/".join(words[:2]), words[2:]
        repository = self.server.hub.repositories.get(name)
        if repository is None or (
            repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}"
        ):
            return self._send(401, b'{"error": "Invalid username or password."}', {}, has_body)
        if repository.is_gated:
            return self._send(403, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo"}, has_body)
        revision, file = _revision(repository, rest)
        if revision is None:
            return self._send(
                404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"}, has_body
            )
        commit = {"X-Repo-Commit": repository.commit}
        if is_api:
            facts = _tree(repository) if rest[:1] == ["tree"] else _facts(name, repository)
            return self._send(
                200,
                json.dumps(facts).encode(),
                commit | {"Content-Type": "application/json"},
                has_body,
            )
        if file not in repository.files:
            return self._send(404, b"", commit | {"X-Error-Code": "EntryNotFound"}, has_body)
        content = repository.files[file]
        return self._send(
            200, content, commit | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, has_body
        )

    def _send(self, status, body, headers, has_body):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body)


def _revision(repository, rest):
    """Return the requested commit and file name, or (None, "") if the revision does not exist."""
    if rest[:1] not in (["revision"], ["resolve"], ["tree"]):
        return repository.commit, ""
    asked = "/".join(rest[1:])
    for name in [*repository.refs, repository.commit]:
        if asked == name or asked.startswith(f"{name}/"):
            return repository.refs.get(name, name), asked[len(name) + 1 :]
    return None, ""


def _facts(name, repository):
    siblings = [{"rfilename": file} for file in repository.files]
    tag = {} if repository.pipeline_tag is None else {"pipeline_tag": repository.pipeline_tag}
    return {
        "_id": "1",
        "id": name,
        "modelId": name,
        "sha": repository.commit,
        "siblings": siblings,
        **tag,
    }


def _tree(repository):
    return [
        {
            "type": "file",
            "path": file,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }
        for file, content in repository.files.items()
    ]
