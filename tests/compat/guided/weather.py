"""A question and the tool that answers it. The sessions run in the environment of the clients, so
this module imports no other package.
"""

QUESTION = [{"role": "user", "content": "What is the weather like in Vienna?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
