"""Tools, arguments and calls for the tests of output formats."""

from tgi.text.output import ToolDefinition

WEATHER = ToolDefinition(
    "get_weather",
    "The weather of a city",
    '{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}},'
    '"required":["city"],"additionalProperties":false}',
)
TIMER = ToolDefinition(
    "set_timer",
    None,
    '{"type":"object","properties":{"minutes":{"type":"integer"}},"required":["minutes"],'
    '"additionalProperties":false}',
)
NOW = ToolDefinition("now")
TOOLS = (WEATHER, TIMER, NOW)

# The source of a chat template that identifies the format.
BAR, GAP = "\uff5c", "\u2581"
CALLS, CALLS_END = f"<{BAR}tool{GAP}calls{GAP}begin{BAR}>", f"<{BAR}tool{GAP}calls{GAP}end{BAR}>"
CALL, CALL_END = f"<{BAR}tool{GAP}call{GAP}begin{BAR}>", f"<{BAR}tool{GAP}call{GAP}end{BAR}>"
SEP = f"<{BAR}tool{GAP}sep{BAR}>"
TEMPLATES = {
    "hermes": "<tool_call>",
    "llama3_json": "Environment: ipython <|python_tag|>",
    "mistral": "[TOOL_CALLS]",
    "mistral named": "[TOOL_CALLS] [ARGS]",
    "deepseek v3": f"{CALLS} ```json",
    "deepseek v3.1": CALLS,
    "granite": "<|tool_call|>",
    "glm45": "<tool_call> <arg_key>",
    "gpt_oss": "<|channel|>",
    "tgi": "",
}

PARIS = '{"city": "Paris"}'
# Brackets, quotes, markers and escape sequences inside a string.
TRICKY = (
    r'{"city": "a\"}]</tool_call>\n\\ \ud83d\ude00 \u00e9 é 😀 [TOOL_CALLS]<|call|>", "days": 3}'
)
NESTED = '{"city": "{}", "days": {"a": [1, -2.5e+3, [], {}, true, false, null, {"b": ""}]}}'


def text(content):
    return ("text", content)


def call(name, arguments="{}"):
    return ("call", name, arguments)


def hermes(arguments, name="get_weather"):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def deepseek(name, arguments):
    return f"{CALL}function{SEP}{name}\n```json\n{arguments}\n```{CALL_END}"


def deepseek_31(name, arguments):
    return f"{CALL}{name}{SEP}{arguments}{CALL_END}"


def glm(name, **values):
    pairs = "".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n"
        for key, value in values.items()
    )
    return f"<tool_call>{name}\n{pairs}</tool_call>"


def harmony(header, content, end="<|end|>"):
    return f"<|channel|>{header}<|message|>{content}{end}"
