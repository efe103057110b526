"""Ask the held-out prompts greedily and print the table of scores.

    python -m tools.train_demo.evaluate --url http://localhost:3000
        over the HTTP API of a running server
    python -m tools.train_demo.evaluate --checkpoint build/train_demo/main
        in this process, while training goes on
    python -m tools.train_demo.evaluate --url http://localhost:3000 --draft build/train_demo/draft
                                                                               how often a draft
                                                                               guesses the server's
                                                                               next token

Wrong answers are listed below the table. With --card the table takes the place of the one in the
model card and in its copy beside the weights.
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
    """The prompt's text through the chat template."""
    template = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, autoescape=False
    ).from_string(CHAT_TEMPLATE)
    return template.render(messages=prompt.messages, tools=prompt.tools, add_generation_prompt=True)


def ask_checkpoint(directory: Path) -> tuple[list[Answer], str]:
    """Answers of a checkpoint in training, and its raw continuation of the first example."""
    model, tokenizer = _load(directory)
    texts = [render(prompt) for prompt in prompts()]
    *written, raw = greedy(model, tokenizer, [*texts, RAW_PROMPT], MAX_NEW_TOKENS)
    return [
        Answer(prompt, *result) for prompt, result in zip(prompts(), written, strict=True)
    ], raw[0]


def _load(directory: Path) -> tuple[Llama, Tokenizer]:
    """The model of a training directory, rounded to bf16 as it is exported, and the tokenizer
    beside it.
    """
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)["model"]
    model = Llama(MAIN if saved["model.norm.weight"].numel() == MAIN.hidden_size else DRAFT)
    model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in saved.items()})
    return model, Tokenizer.from_file(str(directory.parent / "tokenizer.json"))


def ask_server(url: str) -> tuple[list[Answer], str]:
    """Answers of a running server: tool prompts raw through /generate, so that no grammar helps;
    all others through chat.
    """
    post = _poster(url)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda prompt: _ask(post, prompt), prompts()))
    raw = post(
        "/generate", {"inputs": RAW_PROMPT, "parameters": {"max_new_tokens": MAX_NEW_TOKENS}}
    )
    return answers, raw["generated_text"]


def ask_draft(url: str, directory: Path) -> tuple[int, int]:
    """Of how many tokens in the server's answers the draft in `directory` guesses how many."""
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
    """Replace the card's table of scores, and the copy of the card."""
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
    """The command line."""
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
        parser.error("--draft needs --url: the answers come from a running server")
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
