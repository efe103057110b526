"""Outputs of models in all formats, written by hand, with their parts.

A transcript is a pair of an output and its expected items. An item is a pair ("text" or
"reasoning", its text) or a triple ("call", name, arguments). A call that is not complete has the
kind "cut".
"""

from tests.core.text.output.samples import (
    CALL,
    CALL_END,
    CALLS,
    CALLS_END,
    NESTED,
    PARIS,
    SEP,
    TRICKY,
    call,
    deepseek,
    deepseek_31,
    glm,
    harmony,
    hermes,
    text,
)

HERMES = [
    ("Just text.", [text("Just text.")]),
    ("  Two spaces, and a line\n", [text("  Two spaces, and a line\n")]),
    ("", []),
    (" \n", [text(" \n")]),
    (hermes(PARIS), [call("get_weather", PARIS)]),
    (hermes(TRICKY), [call("get_weather", TRICKY)]),
    (hermes(NESTED), [call("get_weather", NESTED)]),
    (f"Wait.\n{hermes(PARIS)}\n", [text("Wait."), call("get_weather", PARIS)]),
    (
        f"A {hermes(PARIS)} b {hermes('{}', 'now')} c",
        [text("A"), call("get_weather", PARIS), text("b"), call("now"), text("c")],
    ),
    (
        f"{hermes(PARIS)}\n{hermes('{ }', 'now')}",
        [call("get_weather", PARIS), call("now", "{ }")],
    ),
    ('<tool_call>{"arguments": {"a":1}, "name": "now"}</tool_call>', [call("now", '{"a":1}')]),
    ('<tool_call>{"name": "now"}</tool_call>', [call("now")]),
    ('<tool_call>{"name": "now", "arguments": null}</tool_call>', [call("now")]),
    ('<tool_call>{"name": "now", "arguments": ""}</tool_call>', [call("now")]),
    (
        r'<tool_call>{"id": 1,"name": "now","arguments": "{\"a\": \"\\n\"}", "x": 2}</tool_call>',
        [call("now", r'{"a": "\n"}')],
    ),
    # The closing bracket of the call is missing.
    (f'<tool_call>{{"name": "get_weather", "arguments": {PARIS}', [call("get_weather", PARIS)]),
    (
        f'<tool_call>{{"name": "get_weather", "arguments": {PARIS}</tool_call>',
        [call("get_weather", PARIS)],
    ),
    # There is one bracket too many.
    (
        f'<tool_call>{{"name": "get_weather", "arguments": {PARIS}}}}}</tool_call>',
        [call("get_weather", PARIS), text("}</tool_call>")],
    ),
    # These are no calls.
    *[
        (output, [text(output)])
        for output in (
            "<tool_call>",
            "<tool_cal",
            "a <tool_call> b",
            "</tool_call>",
            '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
            '<tool_call>{"name": "now", "arguments": []}</tool_call>',
            '<tool_call>{"name": "now", "arguments": "[1]"}</tool_call>',
            r'<tool_call>{"name": "now", "arguments": "{\"a\": \"\ud800\"}"}</tool_call>',
            '<tool_call>{"name": "now", "arguments": "{"}</tool_call>',
            '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
            r'<tool_call>{"name": "\ud800", "arguments": {}}</tool_call>',
            '<tool_call>{"name": "now" "arguments": {}}</tool_call>',
            '<tool_call>{name: "now", "arguments": {}}</tool_call>',
            '<tool_call>{"arguments": {}}</tool_call>',
            '<tool_call>{"name": "no',
            '<tool_call>{"name": "now", "argu',
            "<tool_call>[1, 2]</tool_call>",
        )
    ],
    (
        f'<tool_call>{{"name": "unknown", "arguments": {{}}}}</tool_call>{hermes(PARIS)}',
        [
            text('<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
            call("get_weather", PARIS),
        ],
    ),
    (f"<tool_call>{hermes(PARIS)}", [text("<tool_call>"), call("get_weather", PARIS)]),
    # The arguments are cut, or their JSON becomes invalid.
    (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Par',
        [("cut", "get_weather", '{"city": "Par')],
    ),
    (
        r'<tool_call>{"name": "get_weather", "arguments": {"city": "Par\u00',
        [("cut", "get_weather", '{"city": "Par')],
    ),
    (
        '<tool_call>{"name": "now", "arguments": {"a": 1, }}</tool_call> end',
        [("cut", "now", '{"a": 1, '), text("}}</tool_call> end")],
    ),
    (
        r'<tool_call>{"name": "now", "arguments": {"a": "\x"}}',
        [("cut", "now", '{"a": "'), text(r'\x"}}')],
    ),
]

LLAMA = [
    ("Just text.", [text("Just text.")]),
    ('{"name": "get_weather", "parameters": {"city": "Paris"}}', [call("get_weather", PARIS)]),
    (
        '\n {"type": "function", "name": "now", "parameters": {}}; '
        f'{{"name": "get_weather", "parameters": {TRICKY}}} done',
        [call("now"), call("get_weather", TRICKY), text("done")],
    ),
    (
        f'<|python_tag|>{{"name": "get_weather", "parameters": {PARIS}}}',
        [call("get_weather", PARIS)],
    ),
    (
        'Let me see. <|python_tag|> {"name": "now", "parameters": {}}',
        [text("Let me see."), call("now")],
    ),
    *[
        (output, [text(output)])
        for output in (
            '{"city": "Paris"}',
            '{"name": "Alice", "age": 3}',
            ' {"a": 1}; {"b": 2}',
            '<|python_tag|>brave_search.call(query="x")',
            'A {"name": "now", "parameters": {}}',
            "{",
        )
    ],
    (
        '{"name": "now", "parameters": {}}; {"name": "later"}',
        [call("now"), text('; {"name": "later"}')],
    ),
]

MISTRAL = [
    ("Just text.", [text("Just text.")]),
    (
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}}]',
        [call("get_weather", PARIS)],
    ),
    (
        f'Ok [TOOL_CALLS] [{{"name": "get_weather", "arguments": {TRICKY}, "id": "abc123def"}}, '
        '{"name": "now", "arguments": {}}] end',
        [text("Ok"), call("get_weather", TRICKY), call("now"), text("end")],
    ),
    (
        f"[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{{}}",
        [call("get_weather", PARIS), call("now")],
    ),
    (f"[TOOL_CALLS]get_weather{NESTED}", [call("get_weather", NESTED)]),
    (
        '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "later"}]',
        [call("now"), text(', {"name": "later"}]')],
    ),
    *[
        (output, [text(output)])
        for output in (
            "[TOOL_CALLS]",
            "[TOOL_CALLS][]",
            "[TOOL_CALLS]later[ARGS]{}",
            "[TOOL_CALLS]now[ARGS]x",
            "[TOOL",
            '[TOOL_CALLS][{"name": "later", "arguments": {}}]',
        )
    ],
]


DEEPSEEK = [
    ("Just text.", [text("Just text.")]),
    (
        f"{CALLS}{deepseek('get_weather', PARIS)}\n{deepseek('now', '{}')}{CALLS_END}",
        [call("get_weather", PARIS), call("now")],
    ),
    (
        f"Ok.{CALLS}{deepseek_31('get_weather', TRICKY)}{deepseek_31('now', '{}')}{CALLS_END}",
        [text("Ok."), call("get_weather", TRICKY), call("now")],
    ),
    (
        f"{CALLS}{deepseek_31('now', '{}')}{deepseek_31('later', '{}')}{CALLS_END}",
        [call("now"), text(f"{deepseek_31('later', '{}')}{CALLS_END}")],
    ),
    (f"{CALLS}{CALL}now{SEP}{{}}", [call("now")]),
    (f"{CALLS}{CALL}now{SEP}{{", [("cut", "now", "{")]),
    *[
        (output, [text(output)])
        for output in (
            CALLS,
            f"{CALLS}{CALLS_END}",
            f"{CALLS}{CALL}now",
            f"{CALLS}{deepseek_31('later', '{}')}{CALLS_END}",
            f"{CALLS}{CALL}function{SEP}now\n{{}}",
            f"{CALLS}{CALL}function{SEP}later\n```json\n{{}}\n```{CALL_END}",
        )
    ],
]

GRANITE = [
    ("Just text.", [text("Just text.")]),
    (
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {TRICKY}}}, '
        '{"name": "now", "arguments": {}}]',
        [call("get_weather", TRICKY), call("now")],
    ),
    (
        f'<tool_call> [{{"arguments": {PARIS}, "name": "get_weather"}}]',
        [call("get_weather", PARIS)],
    ),
    ('<|tool_call|>[{"name": "later"}]', [text('<|tool_call|>[{"name": "later"}]')]),
    ("<|tool_call|>[]", [text("<|tool_call|>[]")]),
]


GLM = [
    ("Just text.", [text("Just text.")]),
    (glm("get_weather", city="Paris"), [call("get_weather", PARIS)]),
    (
        "\nOk. " + glm("get_weather", city=' a\n"\\<b> ü😀', days=3) + "\n" + glm("now"),
        [
            text("\nOk."),
            call("get_weather", '{"city": " a\\n\\"\\\\<b> ü😀", "days": 3}'),
            call("now"),
        ],
    ),
    (
        glm("get_weather", city="12", days="many"),
        [call("get_weather", '{"city": "12", "days": "many"}')],
    ),
    (
        glm("now", x='{"a": [1]}', y="true", z="a b"),
        [call("now", '{"x": {"a": [1]}, "y": true, "z": "a b"}')],
    ),
    (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Par",
        [("cut", "get_weather", '{"city": "Par')],
    ),
    (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\nso",
        [("cut", "get_weather", '{"city": "Paris"'), text("so")],
    ),
    *[
        (output, [text(output)])
        for output in (
            "<tool_call>later\n</tool_call>",
            "<tool_call>get_weather",
            "<tool_call>get_weather\nfoo",
            "<tool_call>",
        )
    ],
]


NEXT = "<|start|>assistant"
GPT_OSS = [
    ("Just text.", [text("Just text.")]),
    (harmony("final", "Hello there.", ""), [text("Hello there.")]),
    (
        harmony("analysis", "Hm, let me see.") + NEXT + harmony("final", "Hi.", "<|return|>"),
        [("reasoning", "Hm, let me see."), text("Hi.")],
    ),
    (
        harmony("analysis", "Hm.")
        + NEXT
        + harmony("commentary to=functions.get_weather <|constrain|>json", TRICKY, "<|call|>"),
        [("reasoning", "Hm."), call("get_weather", TRICKY)],
    ),
    (
        f"{NEXT} to=functions.now<|channel|>commentary json<|message|>{{}}<|call|>",
        [call("now")],
    ),
    (
        harmony("commentary", "First this.")
        + NEXT
        + harmony("commentary to=functions.now ", "{}", ""),
        [text("First this."), call("now")],
    ),
    (
        harmony("analysis", "One.")
        + NEXT
        + harmony("analysis", "Two.", "")
        + NEXT
        + harmony("final", "x"),
        [("reasoning", "One.Two."), text("x")],
    ),
    (harmony("analysis", "One. <|channel", ""), [("reasoning", "One. <|channel")]),
    (
        harmony("commentary to=browser.search", "{}", "<|call|>"),
        [text("<|channel|>commentary to=browser.search<|message|>{}")],
    ),
    (
        harmony("commentary to=functions.now", '{"a": ', ""),
        [("cut", "now", '{"a": ')],
    ),
    ("<|channel|>final", [text("<|channel|>final")]),
    ("<|start|>assistant<|message|>x", [text("<|start|>assistant<|message|>x")]),
]

TGI = [
    ("Just text.", [text("Just text.")]),
    ('{"function": {"_name": "get_weather", "city": "Paris"}}', [call("get_weather", PARIS)]),
    ('{"function": {"_name": "now"}}', [call("now")]),
    (
        ' {"function":{"_name":"get_weather" , "city": "\\"}}\\u00e9", "days": 1}} x',
        [call("get_weather", '{"city": "\\"}}\\u00e9", "days": 1}'), text("x")],
    ),
    ('{"name": "get_weather", "parameters": {"city": "Paris"}}', [call("get_weather", PARIS)]),
    (' {"name": "now", "arguments": {}} x', [call("now"), text("x")]),
    ('{"name": "Alice", "age": 3}', [text('{"name": "Alice", "age": 3}')]),
    ('{"function": {"_name": "get_weather", "city": "Pa', [("cut", "get_weather", '{"city": "Pa')]),
    *[
        (output, [text(output)])
        for output in (
            "{}",
            '{"function": {"_name": "no_tool"}}',
            '{"function": {"_name": "now", ',
            '{"function": {"city": "Paris", "_name": "get_weather"}}',
            '{"functions": 1}',
            'x {"function": {"_name": "now"}}',
        )
        if output != '{"function": {"_name": "now", '
    ],
    ('{"function": {"_name": "now", ', [("cut", "now", "{")]),
]

TRANSCRIPTS = {
    "hermes": HERMES,
    "llama3_json": LLAMA,
    "mistral": MISTRAL,
    "deepseek v3": DEEPSEEK,
    "granite": GRANITE,
    "glm45": GLM,
    "gpt_oss": GPT_OSS,
    "tgi": TGI,
}
