"""A session with the `lm-eval` package on a task in a local file. The interpreter of the client
environment runs this file: `python … URL TOKENIZER EXPECTED`.

`EXPECTED` is a JSON file with the expected log likelihoods. `pairs` contains the context, the
continuation, the log likelihood and whether the continuation is greedy. `texts` contains texts with
their log likelihoods.
"""

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# The libraries read these variables at import. With them, they open no connection to a hub.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp()

import lm_eval

TOLERANCE = 2e-3


def task(folder: Path, name: str, rows: list[dict[str, Any]], **fields: str) -> dict[str, Any]:
    """The configuration of a task whose rows are in a file."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "target_delimiter": "",
        **fields,
    }


def evaluate(url: str, tokenizer: str, task: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The results of a task, with its samples."""
    return lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "base_url": f"{url}/v1/completions",
            "model": "tgi",
            "tokenizer": tokenizer,
            "tokenizer_backend": "huggingface",
            "max_length": 512,
            **options,
        },
        tasks=[task],
        bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
    )


def check_pairs(results: dict[str, Any], pairs: list[dict[str, Any]]) -> None:
    samples = sorted(results["samples"]["pairs"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(pairs), results
    for sample, pair in zip(samples, pairs, strict=True):
        [(found, is_greedy)] = sample["filtered_resps"]
        assert math.isclose(found, pair["logprob"], abs_tol=TOLERANCE), (found, pair)
        assert is_greedy == pair["is_greedy"], (is_greedy, pair)
    share = sum(pair["is_greedy"] for pair in pairs) / len(pairs)
    assert results["results"]["pairs"]["acc,none"] == share, results["results"]


def check_texts(results: dict[str, Any], texts: list[dict[str, Any]]) -> None:
    samples = sorted(results["samples"]["texts"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(texts), results
    for sample, text in zip(samples, texts, strict=True):
        [found] = sample["filtered_resps"]
        assert math.isclose(found, text["logprob"], abs_tol=TOLERANCE), (found, text)


def main() -> None:
    url, tokenizer, path = sys.argv[1:]
    expected = json.loads(Path(path).read_text())
    with tempfile.TemporaryDirectory() as name:
        pairs = task(
            Path(name),
            "pairs",
            expected["pairs"],
            output_type="loglikelihood",
            doc_to_text="{{context}}",
            doc_to_target="{{continuation}}",
            metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        )
        texts = task(
            Path(name),
            "texts",
            expected["texts"],
            output_type="loglikelihood_rolling",
            doc_to_text="",
            doc_to_target="{{text}}",
            metric_list=[{"metric": "word_perplexity"}],
        )
        for options in ({}, {"batch_size": 3}, {"num_concurrent": 3}):
            check_pairs(evaluate(url, tokenizer, pairs, **options), expected["pairs"])
        check_texts(evaluate(url, tokenizer, texts), expected["texts"])
    print("all checks passed")


main()
