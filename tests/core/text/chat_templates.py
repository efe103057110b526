"""Templates and conversations for the comparison with transformers. Each template uses one feature
that published templates use.
"""

USER = {"role": "user", "content": "What is 2 < 3 & 'x'? "}
ASSISTANT = {"role": "assistant", "content": " It is *true*.\n"}
SYSTEM = {"role": "system", "content": "Be brief, très bref 🙂."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell the weather of a <place> & time.",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}},
                "required": ["place"],
            },
        },
    }
]
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "abc123def",
            "type": "function",
            "function": {"name": "weather", "arguments": {"place": "Århus"}},
        }
    ],
}
RESULT = {
    "role": "tool",
    "name": "weather",
    "content": '{"celsius": 7}',
    "tool_call_id": "abc123def",
}
PARTS = {
    "role": "user",
    "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}],
}
THINKING = {"role": "assistant", "content": "Four.", "reasoning": "two and two"}

CONVERSATIONS = {
    "user": ([USER], None),
    "system": ([SYSTEM, USER, ASSISTANT, USER], None),
    "continued": ([USER, ASSISTANT], None),
    "tools": ([SYSTEM, USER, CALL, RESULT], TOOLS),
    "reasoning": ([USER, THINKING, USER], None),
}

LOOP = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"

TEMPLATES = {
    "plain loop": LOOP,
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' +"
        " message['content'] | string + '<|im_end|>' + '\\n'}}{% endfor %}{% if"
        " add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "tokens": (
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}[{{ none_such }}]" + LOOP
    ),
    "whitespace trimmed by blocks": (
        "  {% if messages %}\n    {% for m in messages %}\n  {{ m.content }}\n    {% endfor %}\n "
        " {% endif %}\n"
    ),
    "whitespace trimmed by hand": (
        "{%- for m in messages -%}\n   {{- m.role -}}   \n{{- m.content }}  {%- endfor -%}\n"
    ),
    "whitespace kept by plus": (
        "{%+ if true +%}\n a {%+ endif %}\n{% for m in messages +%}\n{{ m.content }}{%+ endfor %}"
    ),
    "comments": "{# first #}\n{#- second -#}  \n" + LOOP + "{# last #}\n",
    "raw": "{% raw %}{{ not this }}{% endraw %}" + LOOP,
    "trailing newline": LOOP + "\n",
    "two trailing newlines": LOOP + "\n\n",
    "loop variables": (
        "{% for m in messages %}{{ loop.index0 }}/{{ loop.length }}{{ ' first' if loop.first }}{{ '"
        " last' if loop.last }}{{ loop.previtem.role if loop.previtem }}|{{ loop.cycle('a', 'b')"
        " }}|{{ m.content }}{% else %}nobody{% endfor %}"
    ),
    "loop filter": (
        "{% for m in messages if m.role != 'system' %}{{ loop.revindex }}{{ m.content }}{%"
        " endfor %}"
    ),
    "break and continue": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}"
        "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "nested loops": (
        "{% for m in messages %}{% for key in m %}{{ loop.depth }}{{ key }}={{ m[key] }};{% endfor"
        " %}{% endfor %}"
    ),
    "recursive loop": (
        "{% for m in [messages] recursive %}{% if m is sequence and m is not mapping %}<{{ loop(m)"
        " }}>{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "system first": (
        "{% if messages and messages[0]['role'] == 'system' %}{% set system ="
        " messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}{% set system = 'none'"
        " %}{% set rest = messages %}{% endif %}<<{{ system }}>>{% for m in rest %}[{{ m.role }}]{{"
        " m.content }}{% endfor %}"
    ),
    "system refused": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not"
        " supported') }}{% endif %}{{ m.content }}{% endfor %}"
    ),
    "roles alternate": (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{"
        " raise_exception('Roles must alternate ' ~ loop.index) }}{% endif %}{{ m.content }}{%"
        " endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(count=0, last='') %}{% for m in messages %}{% set ns.count ="
        " ns.count + 1 %}{% set ns.last = m.role %}{% endfor %}{{ ns.count }}{{ ns.last }}{{"
        " messages[-1].content }}"
    ),
    "namespace of a name self": "{% set ns = namespace(self=1) %}{{ ns.self }}" + LOOP,
    "namespace underscore": "{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns._x }}",
    "scope of set": (
        "{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }}{{ m.content }}{% endfor"
        " %}{{ x }}"
    ),
    "set block": (
        "{% set text %}  a\n{{ bos_token }}{% endset %}{{ text | trim }}|{{ text }}" + LOOP
    ),
    "macro": (
        "{% macro turn(role, text='-', end=eos_token) %}<{{ role }}>{{ text }}{{ end }}{{ varargs"
        " }}{{ kwargs }}{% endmacro %}{% for m in messages %}{{ turn(m.role, m.content, x=1) }}{%"
        " endfor %}"
    ),
    "macro with caller": (
        "{% macro box(name) %}[{{ name }}:{{ caller(name) }}]{% endmacro %}{% for m in messages"
        " %}{% call(n) box(m.role) %}{{ n }}{{ m.content }}{% endcall %}{% endfor %}"
    ),
    "macro that recurs": (
        "{% macro show(value, depth) %}{% if value is mapping %}{% for k, v in value | dictsort"
        " %}{{ '  ' * depth }}{{ k }}\n{{ show(v, depth + 1) }}{% endfor %}{% else %}{{ '  ' *"
        " depth }}{{ value }}\n{% endif %}{% endmacro %}{% for t in tools or [] %}{{ show(t, 0)"
        " }}{% endfor %}{% for m in messages %}{{ show(m, 1) }}{% endfor %}"
    ),
    "generation block": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n{%"
        " endgeneration %}\n{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "scope of a generation block": (
        "{% set x = 'out' %}{% generation %}{% set x = 'in' %}{{ x }}{% endgeneration %}{{ x }}{{"
        " messages[-1].content }}"
    ),
    "generation block, trimmed": (
        "a  {%- generation -%}  {{ messages[-1].content }}  {%- endgeneration -%}  b"
    ),
    "tools": (
        "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}{% for m"
        " in messages %}{{ m.role }}{% if m.tool_calls is defined %}{% for c in m.tool_calls %}{{"
        " c.id }}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% else %}{{"
        " m.content }}{% endif %}{% endfor %}"
    ),
    "tools, indented": (
        "{{ tools | tojson(indent=4) }}{% if messages %}{{ messages[-1] | tojson(indent=2) }}{%"
        " endif %}"
    ),
    "tojson sorted": "{{ messages | tojson(sort_keys=true) }}",
    "tojson ascii": "{{ messages | tojson(ensure_ascii=true, separators=(',', ':')) }}",
    "tojson of numbers": "{{ [1, 1.0, 1e30, -0.5, none, true] | tojson }}" + LOOP,
    "members that are null": (
        "{% for m in messages %}{{ 'content' in m }}{{ m.get('content', '?') }}{{ m.keys() | list"
        " }}{% endfor %}"
    ),
    "reasoning": (
        "{% for m in messages %}<t>{{ m.reasoning_content }}{{ m.thinking }}</t>{{ m.content }}{%"
        " endfor %}"
    ),
    "filters": (
        "{% for m in messages %}{{ m.role | upper | replace('S', '$') }}{{ m.content | default('-',"
        " true) | trim | length }}{{ m.content | string | first }}{{ m.role | capitalize |"
        " center(12) }}{{ m.content | e }}{% endfor %}"
    ),
    "string methods": (
        "{% for m in messages %}{% set c = m.content | string %}{{ c.strip().split(' ')[-1] }}{{"
        " c.startswith('W') }}{{ c.rstrip('\\n') }}{{ '%s-%02d' % (m.role, loop.index) }}{{"
        " '{}:{:>4}'.format(m.role, loop.index) }}{% endfor %}"
    ),
    "selection of lists": (
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|')"
        " }}{{ messages | rejectattr('role', 'in', ['user']) | list | length }}{{ messages |"
        " map(attribute='role') | unique | list }}{{ (messages | last).content }}"
    ),
    "slices": (
        "{{ messages[::-1] | map(attribute='role') | join(',') }}{{ messages[-1:] }}{{"
        " 'abcdef'[1:-2] }}"
    ),
    "tests": (
        "{% for m in messages %}{{ m.content is string }}{{ m.content is iterable }}{{ m is mapping"
        " }}{{ m.x is defined }}{{ m.content is none }}{{ loop.index is odd }}{{ loop.index is"
        " divisibleby 2 }}{{ m.content }}{% endfor %}"
    ),
    "arithmetic": (
        "{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 ** 5 }}{{ -7 % 3 }}{{ 1.0 }}{{ 'a' * 3 }}{{ [1] + [2] }}{{ 1 ~"
        " 2 }}{{ messages | length }}"
    ),
    "python values": (
        "{{ none }}{{ true }}{{ {'a': [1, 'b']} }}{{ ('x', 1) }}{{ dict(a=1) }}{{ dict([('k',"
        " 2)]) }}" + LOOP
    ),
    "date": "{{ strftime_now('%d %b %Y') }}[{{ strftime_now('%Z%z') }}]" + LOOP,
    "date unless given": (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%Y-%m-%d') %}{%"
        " endif %}{{ date_string }}" + LOOP
    ),
    "joiner and cycler": (
        "{% set comma = joiner(', ') %}{% set turns = cycler('x', 'y') %}"
        "{% for m in messages %}{{ comma() }}{{ turns.next() }}{{ m.content }}{% endfor %}"
    ),
    "with": "{% with a = messages | length, b = 2 %}{{ a * b }}{% endwith %}{{ a }}" + LOOP,
    "filter block": "{% filter upper %}" + LOOP + "{% endfilter %}",
    "block": "{% block turns %}" + LOOP + "{% endblock %}",
    "if expressions": (
        "{{ 'a' if messages else 'b' }}{{ messages[0].role if messages and messages[0] is"
        " mapping }}" + LOOP
    ),
    "content that may be parts": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in"
        " m.content %}{% if p.type == 'text' %}<{{ p['text'] }}>{% endif %}{% endfor %}{% endif"
        " %}{% endfor %}"
    ),
    "content filtered for text": (
        "{% for m in messages %}{% if m.content is not string %}{% for p in m['content'] |"
        " selectattr('type', 'equalto', 'text') %}{{ p.text }}|{% endfor %}{% else %}{{ m.content"
        " }}{% endif %}{% endfor %}"
    ),
    "content trimmed": "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}",
    "no message shown": "{{ bos_token }}",
    "undefined attribute": "{{ messages[0].a.b }}",
    "wrong types": "{{ 1 + 'a' }}",
}

WITH_PARTS = ["content that may be parts", "content filtered for text"]

MEASURES_CONTENT = "filters"
"""The name of a template that prints the length of a message. To continue a message, the renderer
adds a marker to its text, so that this template prints a different length.
"""
