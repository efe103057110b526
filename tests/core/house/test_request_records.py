"""Between the body of a request and the worker, its fields are in three records; between the worker
and the text, the fields of a token are in three records. No other record copies them.
"""

import ast

from tests.core.house.sources import CORE, python_files

FOLDERS = ("server/generation", "engine", "scheduler", "backend")
MIN_SHARED = 2  # a record with this many fields of a request or a token is a copy of it

REQUEST_FIELDS = {
    "request_id",
    "prompt_token_ids",
    "encoder_token_ids",
    "sampling",
    "seed",
    "max_new_tokens",
    "eos_token_ids",
    "adapter",
}
REQUEST_RECORDS = {
    "GenerateParameters",  # the body of a request
    "TextRequest",  # the body in native terms, with the facts that only the front end needs
    "Request",
    "NewSequence",
}

TOKEN_FIELDS = {
    "token_ids",
    "tokens",
    "logprob",
    "logprobs",
    "top",
    "top_ids",
    "top_tokens",
    "finish_reason",
}
TOKEN_RECORDS = {
    "ModelRunnerOutput",
    "PromptScores",  # the part of `ModelRunnerOutput` for prompt positions
    "SequenceOutput",
    "GeneratedToken",
}


def records_with(fields, source):
    """Return the names of the classes that declare at least `MIN_SHARED` of the fields."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            declared = {
                statement.target.id
                for statement in node.body
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            }
            if len(declared & fields) >= MIN_SHARED:
                found.add(node.name)
    return found


def records_between(fields):
    return {
        name
        for path in python_files(*(CORE / folder for folder in FOLDERS))
        for name in records_with(fields, path.read_text(encoding="utf-8"))
    }


def test_the_records_of_a_request():
    assert records_between(REQUEST_FIELDS) == REQUEST_RECORDS


def test_the_records_of_a_token():
    assert records_between(TOKEN_FIELDS) == TOKEN_RECORDS


def test_a_copy_is_found():
    source = "class Copy:\n    seed: int\n    adapter: int = 0\n\n\nclass Other:\n    seed: int\n"
    assert records_with(REQUEST_FIELDS, source) == {"Copy"}
