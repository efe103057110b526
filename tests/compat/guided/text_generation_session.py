"""Grammars with the `text-generation` client package. The interpreter of the client environment
runs this file: `python … URL`.
"""

import json
import re
import sys

from text_generation import Client
from text_generation.types import Grammar, GrammarType

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "degrees": {"type": "integer"},
    },
    "required": ["city", "degrees"],
}


def main() -> None:
    [url] = sys.argv[1:]
    client = Client(url)
    digits = Grammar(type=GrammarType.Regex, value="[0-9]{3}")
    response = client.generate("A number:", max_new_tokens=20, grammar=digits)
    assert re.fullmatch("[0-9]{3}", response.generated_text), response
    assert response.details.finish_reason == "eos_token", response
    schema = Grammar(type=GrammarType.Json, value=json.dumps(SCHEMA))
    written = client.generate("JSON:", max_new_tokens=80, grammar=schema)
    assert set(json.loads(written.generated_text)) == {"city", "degrees"}, written
    events = list(client.generate_stream("JSON:", max_new_tokens=80, grammar=schema))
    assert events[-1].generated_text == written.generated_text, events
    print("all checks passed")


main()
