"""Generate answers to the held-out prompts with greedy decoding and print the table of scores.

    python -m tools.train_demo.evaluate --url http://localhost:3000
        uses the HTTP API of a running server
    python -m tools.train_demo.evaluate --checkpoint build/train_demo/main
        runs a checkpoint in this process, also during training
    python -m tools.train_demo.evaluate --url http://localhost:3000 --draft build/train_demo/draft
        prints how many of the server's tokens the draft model predicts

Wrong answers are listed below the table. With --card the table replaces the table in the model card
and in the copy of the card next to the weights.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import torch
from tokenizers import Tokenizer

from tools.train_demo.chat_format import CHAT_TEMPLATE
from tools.train_demo.generation import agreement, greedy
from tools.train_demo.held_out import Prompt, prompts
from tools.train_demo.model import DRAFT, MAIN, Llama
from tools.train_demo.scoring import Answer, is_right, score_table

__all__ = ["ask_checkpoint", "ask_draft", "ask_server", "main"]

MAX_NEW_TOKENS = 128
ROOT = Path(__file__).parents[2]
CARD = ROOT / "docs/demo-model.md"
COPY = ROOT / "core/tgi/demo/model/README.md"
RAW_PROMPT = "What is Deep Learning?"


def render(prompt: Prompt) -> str:
    """Return the text of a prompt, rendered with the chat template."""
    template = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, autoescape=False
    ).from_string(CHAT_TEMPLATE)
    return template.render(messages=prompt.messages, tools=prompt.tools, add_generation_prompt=True)


def ask_checkpoint(directory: Path) -> tuple[list[Answer], str]:
    """Return the answers of a training checkpoint, and its continuation of `RAW_PROMPT` without the
    chat template.
    """
    model, tokenizer = _load(directory)
    texts = [render(prompt) for prompt in prompts()]
    *written, raw = greedy(model, tokenizer, [*texts, RAW_PROMPT], MAX_NEW_TOKENS)
    return [
        Answer(prompt, *result) for prompt, result in zip(prompts(), written, strict=True)
    ], raw[0]


def _load(directory: Path) -> tuple[Llama, Tokenizer]:
    """Return the model in a training directory, rounded to bf16 as in the export, and its
    tokenizer.
    """
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)["model"]
    model = Llama(MAIN if saved["model.norm.weight"].numel() == MAIN.hidden_size else DRAFT)
    model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in saved.items()})
    return model, Tokenizer.from_file(str(directory.parent / "tokenizer.json"))


def ask_server(url: str) -> tuple[list[Answer], str]:
    """Return the answers of a running server, and its continuation of `RAW_PROMPT`. Prompts with
    tools are sent to /generate, so that no grammar constrains the answer. All others are sent to
    /v1/chat/completions.
    """
    post = _poster(url)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda prompt: _ask(post, prompt), prompts()))
    raw = post(
        "/generate", {"inputs": RAW_PROMPT, "parameters": {"max_new_tokens": MAX_NEW_TOKENS}}
    )
    return answers, raw["generated_text"]


def ask_draft(url: str, directory: Path) -> tuple[int, int]:
    """Return how many tokens of the server's answers the draft model in `directory` predicts, and
    the number of all tokens.
    """
    post = _poster(url)
    draft, tokenizer = _load(directory)
    parameters = {"max_new_tokens": MAX_NEW_TOKENS, "details": True}

    def tokens(text: str) -> tuple[list[int], list[int]]:
        result = post("/generate", {"inputs": text, "parameters": parameters})
        return tokenizer.encode(text, add_special_tokens=False).ids, [
            token["id"] for token in result["details"]["tokens"]
        ]

    with ThreadPoolExecutor(8) as pool:
        return agreement(draft, list(pool.map(tokens, [render(prompt) for prompt in prompts()])))


def _ask(post: Callable[[str, dict[str, Any]], Any], prompt: Prompt) -> Answer:
    if prompt.tools:
        parameters = {"max_new_tokens": MAX_NEW_TOKENS, "details": True}
        result = post("/generate", {"inputs": render(prompt), "parameters": parameters})
        return Answer(
            prompt, result["generated_text"], result["details"]["finish_reason"] == "eos_token"
        )
    body = {"messages": prompt.messages, "max_tokens": MAX_NEW_TOKENS, "temperature": 0}
    choice = post("/v1/chat/completions", body)["choices"][0]
    return Answer(prompt, choice["message"]["content"], choice["finish_reason"] == "stop")


def _poster(url: str) -> Callable[[str, dict[str, Any]], Any]:
    def post(route: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            url.rstrip("/") + route, data, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    return post


def write_into_card(table: str) -> None:
    """Replace the table of scores in the model card and in its copy."""
    card = CARD.read_text(encoding="utf-8")
    before, head, rest = card.partition("| Held-out prompts |")
    assert head, f"no table of scores in {CARD}"
    _, _, after = rest.partition("\n\n")
    card = f"{before}{table}\n\n{after}"
    CARD.write_text(card, encoding="utf-8")
    COPY.write_text(
        card.replace("(demo-model-loss.png)", "(../../../../docs/demo-model-loss.png)"),
        encoding="utf-8",
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="a running server that serves the demo")
    source.add_argument("--checkpoint", type=Path, help="a directory of tools.train_demo.train")
    parser.add_argument(
        "--draft", type=Path, help="with --url: a directory of tools.train_demo.train"
    )
    parser.add_argument("--card", action="store_true", help="write the table into the model card")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.draft and not arguments.url:
        parser.error("--draft requires --url, because a running server generates the answers")
    if arguments.draft:
        hits, total = ask_draft(arguments.url, arguments.draft)
        print(f"{hits} of {total} tokens: {100 * hits / total:.1f} %")
        return
    answers, raw = (
        ask_server(arguments.url) if arguments.url else ask_checkpoint(arguments.checkpoint)
    )
    table = score_table(answers)
    print(table)
    print(f"\n{RAW_PROMPT} -> {raw!r}\n")
    for answer in answers:
        if not is_right(answer):
            print(
                f"wrong ({answer.prompt.group}): {answer.prompt.messages[-1]['content']!r} ->"
                f" {answer.text!r}"
            )
    if arguments.card:
        write_into_card(table)


if __name__ == "__main__":
    main()
