"""The text of a conversation: the chat template, and the same text in segments with a flag for the
segments on which the model is trained.
"""

from __future__ import annotations

from tools.train_demo.text.generator import Conversation

__all__ = ["CHAT_TEMPLATE", "END", "PAD", "SPECIAL_TOKENS", "START", "segments"]

PAD = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"
SPECIAL_TOKENS = (PAD, START, END)

# Tools are written as signatures such as get_weather(city: string), because schemas are longer.
CHAT_TEMPLATE = """\
{%- if tools -%}
{{ '<|im_start|>tools' }}
{%- for tool in tools -%}
{%- set schema = tool.function.parameters if tool.function.parameters is mapping else {} -%}
{{ '\\n' + tool.function.name + '(' }}
{%- for name, property in (schema.properties or {}).items() -%}
{{ ('' if loop.first else ', ') + name + ': ' \
+ (property.type if property.type is string else 'any') }}
{%- endfor -%}
{{ ')' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.content is string -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- else -%}
{{ '<|im_start|>' + message.role + '\\n' \
+ ((message.tool_calls or message.content or '') | tojson) + '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""


def segments(conversation: Conversation) -> list[tuple[str, bool]]:
    """Return the text of a conversation in segments, each with True if the model has to generate
    it.

    A raw conversation ends with the same end token as a turn, so that there is only one end token.
    """
    if conversation.raw:
        question, answer = (message["content"] for message in conversation.messages)
        return [(question, False), ("\n" + answer + END, True)]
    parts: list[tuple[str, bool]] = []
    if conversation.tools:
        signatures = [
            _signature(tool["function"]["name"], tool["function"]["parameters"])
            for tool in conversation.tools
        ]
        parts.append((f"{START}tools\n" + "\n".join(signatures) + f"{END}\n", False))
    for message in conversation.messages:
        is_answer = message["role"] == "assistant"
        parts.append((f"{START}{message['role']}\n", False))
        parts.append((f"{message['content']}{END}", is_answer))
        parts.append(("\n", False))
    return parts[:-1]


def _signature(name: str, schema: dict[str, dict[str, dict[str, str]]]) -> str:
    arguments = ", ".join(
        f"{key}: {kind['type']}" for key, kind in schema.get("properties", {}).items()
    )
    return f"{name}({arguments})"
