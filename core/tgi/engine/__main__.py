"""The engine process: `python -m tgi.engine SOCKET`.

The front end starts the engine process and keeps the other end of its standard input open. End of
file on standard input means that the front end has ended.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import traceback

from tgi.backend import Agreement, EngineConfig, Worker, WorkerReporter
from tgi.engine.core import EngineCore
from tgi.engine.link import EngineReporter, SocketConnection
from tgi.engine.messages import Ready, Start, StartFailed
from tgi.errors import StartError
from tgi.plugins import BackendRegistry
from tgi.scheduler import Scheduler


def main(socket_path: str) -> int:
    """Connect to the socket, load the model and run the engine loop. Returns the exit status."""
    # A terminal or a service manager sends these signals to the whole process group. The front end
    # handles them: it completes the running requests and then ends this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_frontend, daemon=True).start()
    # Nearly all objects that are created during startup exist until the process ends. Garbage
    # collection would traverse these objects many times and free almost nothing, so it is disabled
    # until the engine is ready.
    gc.disable()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
        connected.connect(socket_path)
        connection = SocketConnection(connected)
        try:
            return _serve(connection)
        except ConnectionError:
            return 0


def _serve(connection: SocketConnection) -> int:
    (start,) = connection.receive(wait=True)
    if not isinstance(start, Start):
        raise TypeError(f"the first message must be Start, not {type(start).__name__}")
    try:
        worker, agreement, scheduler = _start(start, EngineReporter(connection))
    except StartError as error:
        connection.send(StartFailed(error.cause, error.remedy))
        return 1
    except Exception as error:
        # This is the process boundary: any error reaches the operator as a single sentence.
        traceback.print_exc()
        cause = (
            f"The backend `{start.engine.backend}` failed to start: {type(error).__name__}: {error}"
        )
        connection.send(
            StartFailed(cause, "The traceback is above. The cause is an error in the backend.")
        )
        return 1
    try:
        connection.send(Ready(agreement))
        gc.collect()
        gc.freeze()
        gc.enable()
        EngineCore(worker, scheduler, connection, agreement.limits.depth).run()
    finally:
        worker.close()
    return 0


def _start(start: Start, reporter: WorkerReporter) -> tuple[Worker, Agreement, Scheduler]:
    worker = _create_worker(start.engine, reporter)
    worker.load()
    agreement = worker.negotiate(start.requested)
    scheduler = Scheduler(agreement, start.scheduler)
    worker.warmup()
    return worker, agreement, scheduler


def _create_worker(config: EngineConfig, reporter: WorkerReporter) -> Worker:
    selection = BackendRegistry().select(config.backend, config.spec, config)
    return selection.backend.create_worker(config, reporter)


def _end_with_the_frontend() -> None:
    """End the process as soon as the front end has ended. This function runs in a separate thread,
    because the main thread can be inside a library for minutes, for example during loading.
    """
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
