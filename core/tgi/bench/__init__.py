"""Measure the latency and throughput of a server with a streaming route of TGI or OpenAI."""

from tgi.bench.http_exchange import Endpoint
from tgi.bench.load import Load, Progress, run_load
from tgi.bench.machine import CpuMeter, listeners, trees
from tgi.bench.plot import Panel, svg_plot
from tgi.bench.prompts import PromptMaker, learn_tokenizer
from tgi.bench.report import csv_report, json_report, markdown_table
from tgi.bench.session import Session, Workload
from tgi.bench.summary import RunSummary, Spread, spread, summarize
from tgi.bench.target import ROUTES, Target, find_target

__all__ = [
    "ROUTES",
    "CpuMeter",
    "Endpoint",
    "Load",
    "Panel",
    "Progress",
    "PromptMaker",
    "RunSummary",
    "Session",
    "Spread",
    "Target",
    "Workload",
    "csv_report",
    "find_target",
    "json_report",
    "learn_tokenizer",
    "listeners",
    "markdown_table",
    "run_load",
    "spread",
    "summarize",
    "svg_plot",
    "trees",
]
