"""How many of our source files a request executes, from its body to its response, in the front end
and in the engine. A recorder in both processes notes the file of every Python function called.
"""

import os
import time
from pathlib import Path

import httpx

from tests.core.house.sources import ROOT
from tests.live_server import running_server

MAX_FILES = 45
WAIT_SECONDS = 30.0

RECORDER = """
import os, sys, threading, time

folder = os.environ.get("REQUEST_PATH_FOLDER")


def watch(seen):
    begin, end = os.path.join(folder, "begin"), os.path.join(folder, "end")
    mark = os.path.join(folder, str(os.getpid()))
    while not os.path.exists(begin):
        time.sleep(0.01)
    seen.clear()
    open(mark + ".ready", "w").close()
    while not os.path.exists(end):
        time.sleep(0.01)
    with open(mark + ".part", "w") as files:
        files.write("\\n".join(list(seen)))
    os.rename(mark + ".part", mark + ".files")


def start():
    seen = set()

    def note(frame, event, argument):
        if event == "call":
            seen.add(frame.f_code.co_filename)

    threading.Thread(target=watch, args=(seen,), daemon=True).start()
    threading.setprofile(note)
    sys.setprofile(note)


if folder:
    start()
"""

BODY = {"inputs": "Hello", "parameters": {"max_new_tokens": 1, "details": True}}


def files_of_a_request(folder, monkeypatch):
    """Paths, relative to the repository, of the files that one request executes."""
    (folder / "sitecustomize.py").write_text(RECORDER)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("REQUEST_PATH_FOLDER", str(folder))
    demo = ROOT / "core" / "tgi" / "demo" / "model"
    with running_server(demo, "cpu", folder / "log") as server:
        post(server)  # the first request also imports modules
        (folder / "begin").touch()
        num_processes = wait_until_steady(folder, "*.ready")
        post(server)
        (folder / "end").touch()
        wait_until_steady(folder, "*.files", num_processes)
    names = {
        Path(line)
        for files in folder.glob("*.files")
        for line in files.read_text().splitlines()
        if line.startswith((f"{ROOT}/core/", f"{ROOT}/backends/"))
    }
    return sorted(str(name.relative_to(ROOT)) for name in names)


def post(server):
    httpx.post(f"{server.url}/generate", json=BODY, timeout=60).raise_for_status()


def wait_until_steady(folder, pattern, count=2):
    """Wait until at least `count` processes have written a file, and all of them had the time."""
    end = time.monotonic() + WAIT_SECONDS
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < end, f"fewer than {count} processes recorded"
        time.sleep(0.05)
    time.sleep(0.5)
    return len(list(folder.glob(pattern)))


def test_files_of_a_request(tmp_path, monkeypatch):
    executed = files_of_a_request(tmp_path, monkeypatch)
    # The coroutines that keep the server running are resumed while it is idle, too.
    path = [name for name in executed if not name.startswith("core/tgi/cli/")]
    print(*path, f"{len(path)} files", sep="\n")
    assert {"core/tgi/server/native/routes.py", "core/tgi/engine/core.py"} <= set(path)
    assert any(name.startswith("backends/") for name in path)
    assert len(path) <= MAX_FILES
