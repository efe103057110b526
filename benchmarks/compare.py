"""Compare this server with every other server that is installed. All servers get the same load. The
runs are interleaved and repeated, and the report contains medians, ranges and ratios.

    python benchmarks/compare.py --environments FOLDER --models FOLDER [--peers tgi llama.cpp]
    [--cases 1-user] [--repeats 3]

Missing models are created. For a server that is not installed, the command that installs it is
printed. Each repeat starts every server again, in another order. If other programs used too much
processor time during a case, the case is measured again. The results are written to
`benchmarks/results/` as JSON and SVG. A complete comparison takes a long time.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import roofline
from compare_report import markdown, plot
from models import MODELS, write_model
from peers import PEERS, Peer, Start
from server_process import RunningServer, free_port, running

from tgi.bench import Endpoint, RunSummary, Session, Workload, find_target, learn_tokenizer

_RESULTS = Path(__file__).parent / "results"
# A case is measured at most this many times if other programs use the processors.
_MAX_TRIES = 3
# The first of these routes that a server has is measured.
_ROUTES = ("/v1/completions", "/v1/chat/completions")


@dataclass(frozen=True)
class Case:
    """One load. `figure` is the quantity in the table: `tok/s` (higher is better) or `TTFT` (lower
    is better).
    """

    name: str
    model: str
    users: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    shared_tokens: int = 0
    figure: str = "tok/s"


CASES = (
    Case("1-user", "135m", 1, 6, 128, 128),
    Case("8-users", "135m", 8, 24, 128, 128),
    Case("32-users", "135m", 32, 64, 128, 64),
    Case("prompt-2048", "135m", 1, 6, 2048, 8, figure="TTFT"),
    Case("shared-1024", "135m", 8, 24, 1088, 32, shared_tokens=1024),
    Case("0.5b-1-user", "0.5b", 1, 6, 128, 128),
    Case("0.5b-8-users", "0.5b", 8, 24, 128, 128),
)


def main() -> int:
    """Measure all cases, then print and write the report. Returns the exit code: 1 if no server
    could be measured or a run was invalid.
    """
    arguments = _parse()
    cases = [case for case in CASES if case.name in arguments.cases]
    chosen = [peer for peer in PEERS if peer.name in arguments.peers]
    for model in {case.model for case in cases}:
        write_model(arguments.models / model, MODELS[model])
    records: list[dict[str, Any]] = []
    for repeat in range(arguments.repeats):
        for model in dict.fromkeys(case.model for case in cases):
            ready = _installed(chosen, arguments, arguments.models / model, is_first=not repeat)
            turn = repeat % len(ready) if ready else 0
            for peer in ready[turn:] + ready[:turn]:
                records += _measure(
                    peer, arguments, model, [case for case in cases if case.model == model], repeat
                )
    if not records:
        return 1
    report = {
        "environment": _environment(chosen, arguments),
        "cases": [asdict(case) for case in cases],
        "records": records,
    }
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"{arguments.name}.json").write_text(
        json.dumps(report, indent=2) + "\n", encoding="utf-8"
    )
    (_RESULTS / f"{arguments.name}.svg").write_text(plot(report), encoding="utf-8")
    print(markdown(report))
    return 0 if all(record["valid"] for record in records) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [peer.name for peer in PEERS]
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path("build/peers"),
        help="folder in which the other servers are installed (default: %(default)s)",
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("build/models"),
        help="folder in which the models are created (default: %(default)s)",
    )
    parser.add_argument("--peers", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--cases", nargs="+", choices=[c.name for c in CASES], default=[c.name for c in CASES]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--max-foreign",
        type=float,
        default=0.1,
        help="number of processors that other programs may use during a run (default: %(default)s)",
    )
    parser.add_argument(
        "--name",
        default=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        help="name of the result files (default: the date of today)",
    )
    arguments = parser.parse_args()
    arguments.environments, arguments.models = (
        arguments.environments.resolve(),
        arguments.models.resolve(),
    )
    return arguments


def _installed(
    chosen: list[Peer], arguments: argparse.Namespace, model: Path, *, is_first: bool
) -> list[Peer]:
    ready = []
    for peer in chosen:
        unsupported_reason = (
            peer.unsupported_reason(arguments.environments, model) if peer.program else ""
        )
        if not unsupported_reason:
            ready.append(peer)
        elif is_first:
            print(f"{peer.name} is skipped: {unsupported_reason}", file=sys.stderr)
    return ready


def _measure(
    peer: Peer, arguments: argparse.Namespace, model: str, cases: list[Case], repeat: int
) -> list[dict[str, Any]]:
    start = Start(arguments.environments, arguments.models / model, free_port(), arguments.threads)
    identity = {
        "peer": peer.name,
        "model": model,
        "repeat": repeat,
        "engine_only": peer.engine_only,
        "precision": peer.precision,
    }
    named = str(start.model) if peer.is_model_path else ""
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        try:
            with running(
                peer.command(start), start.port, peer.ready_path, log, peer.environment(start)
            ) as server:
                for number, case in enumerate(cases):
                    run = _run(
                        server, named, case, 1000 * repeat + 10 * number, arguments.max_foreign
                    )
                    print(
                        f"{repeat} {peer.name} {case.name}: {run.output_tokens_per_second} tok/s",
                        file=sys.stderr,
                    )
                    records.append(
                        identity | {"case": case.name, "valid": run.valid, "run": asdict(run)}
                    )
                whole = {
                    "seconds_to_ready": server.seconds_to_ready,
                    "peak_memory_mib": server.peak_memory_mib(),
                }
        except RuntimeError as error:
            print(f"{peer.name} is skipped: {error}", file=sys.stderr)
            return []
    return [*records, identity | {"case": f"{model}-process", "valid": True, **whole}]


def _run(
    server: RunningServer, model: str, case: Case, seed: int, max_foreign: float
) -> RunSummary:
    """Measure a case up to `_MAX_TRIES` times. Returns the run during which other programs used the
    least processor time. Each run is preceded by one request that fills the prefix cache.
    """
    workload = Workload(case.prompt_tokens, case.output_tokens, case.shared_tokens)
    best: RunSummary | None = None
    for attempt in range(_MAX_TRIES):
        session = asyncio.run(_session(server, model, workload, seed + attempt))
        session.run(1, 1)
        run = session.run(case.users, case.requests)
        if best is None or run.foreign_cpus < best.foreign_cpus:
            best = run
        if run.foreign_cpus <= max_foreign:
            break
    assert best is not None
    return best


async def _session(server: RunningServer, model: str, workload: Workload, seed: int) -> Session:
    endpoint = Endpoint.parse(server.url)
    target = await find_target(endpoint, _ROUTES, model=model)
    maker = await learn_tokenizer(endpoint, target.model)
    return Session(target, maker, workload, seed, [server.pid])


def _environment(chosen: list[Peer], arguments: argparse.Namespace) -> dict[str, Any]:
    limits = roofline.measure(arguments.threads)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": arguments.threads,
        "python": platform.python_version(),
        "versions": {peer.name: _version(peer, arguments.environments) for peer in chosen},
        "limits": (
            asdict(limits)
            | {
                f"{name}_decode": limits.decode_limit(model.num_parameters)
                for name, model in MODELS.items()
            }
            | {"135m_prompt_2048_ms": limits.prefill_limit_ms(MODELS["135m"].num_parameters, 2048)}
        ),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )


def _version(peer: Peer, environments: Path) -> str:
    program = (
        [str(environments / peer.program), *peer.version]
        if peer.program
        else [sys.executable, "-m", "tgi", "--version"]
    )
    if not Path(program[0]).is_file():
        return ""
    finished = subprocess.run(program, capture_output=True, text=True, check=False)
    lines = (finished.stdout.strip() or finished.stderr.strip()).splitlines()
    return lines[0 if "version" in lines[0] or len(lines) == 1 else -1] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
