"""Generates random JSON schemas and regular expressions."""

NAMES = ("name", "age", "é", "with space", 'quote"', "back\\slash", "a/b", "x_1")
TEXTS = ("", "red", "green", 'quo"te', "line\nbreak", "東京", "🙂", "a b")
PATTERNS = (
    "^[a-z]{2,4}$",
    "^(foo|bar)$",
    "[0-9]$",
    "^A",
    "b.d",
    r"^\d{3}-\d{4}$",
    "^[^x]+$",
    r"\s",
)
FORMATS = ("date", "date-time", "time", "uuid", "ipv4", "ipv6", "email", "hostname", "duration")


def schema(random, depth=0):
    """A schema that has a valid value."""
    kinds = [string, integer, number, constant, enumeration, boolean, null, reference]
    if depth < 3:
        kinds += [mapping, array, fixed_array, any_of, all_of, any_value, types] * 2
        kinds += [any_object] * 6
    return random.choice(kinds)(random, depth)


def root(random):
    """A schema with definitions."""
    return {**any_object(random, 0), "$defs": {"leaf": string(random, 9), "tree": TREE}}


TREE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/tree"}},
    "required": ["value"],
    "additionalProperties": False,
}


def string(random, _):
    result = {"type": "string"}
    choice = random.randrange(5)
    if choice == 0:
        result["minLength"] = random.randrange(4)
        result["maxLength"] = result["minLength"] + random.randrange(4)
    elif choice == 1:
        result["pattern"] = random.choice(PATTERNS)
    elif choice == 2:
        result["format"] = random.choice(FORMATS)
    elif choice == 3:
        result["maxLength"] = random.randrange(6)
    return result


def integer(random, _):
    result = {"type": "integer"}
    low = random.randrange(-1000, 1000)
    if random.random() < 0.6:
        result[random.choice(["minimum", "exclusiveMinimum"])] = low
    if random.random() < 0.6:
        high = low + random.choice([11, 100, 100_000])
        result[random.choice(["maximum", "exclusiveMaximum"])] = high
    if random.random() < 0.3:
        result["multipleOf"] = random.choice([2, 3, 10])
    return result


def number(random, _):
    result = {"type": "number"}
    low = round(random.uniform(-100, 100), random.randrange(4))
    if random.random() < 0.6:
        result["minimum"] = low
    if random.random() < 0.6:
        result["maximum"] = low + random.choice([1, 0.5, 1000])
    return result


def boolean(_random, _):
    return {"type": "boolean"}


def null(_random, _):
    return {"type": "null"}


def any_value(random, _):
    return random.choice([{}, True, {"description": "any", "default": 1}])


def types(random, _):
    return {"type": random.sample(["string", "integer", "null", "boolean", "array", "object"], 2)}


def constant(random, _):
    return {"const": random.choice([*TEXTS, 0, -1, 2.5, True, None, [1, "a"], {"k": [None]}])}


def enumeration(random, _):
    return {"enum": random.sample([*TEXTS, 1, 20, -3.5, False, None], random.randrange(1, 5))}


def reference(random, _):
    return {"$ref": random.choice(["#/$defs/leaf", "#/$defs/tree"])}


def mapping(random, depth):
    result = {"type": "object", "additionalProperties": schema(random, depth + 1)}
    if random.random() < 0.4:
        result["minProperties"] = random.randrange(2)
        result["maxProperties"] = result["minProperties"] + random.randrange(1, 3)
    if random.random() < 0.3:
        result["patternProperties"] = {"^x_": {"type": "integer"}}
    return result


def array(random, depth):
    result = {"type": "array", "items": schema(random, depth + 1)}
    if random.random() < 0.5:
        result["minItems"] = random.randrange(3)
        result["maxItems"] = result["minItems"] + random.randrange(3)
    return result


def fixed_array(random, depth):
    items = [schema(random, depth + 1) for _ in range(random.randrange(1, 3))]
    return {"type": "array", "prefixItems": items, "items": random.choice([False, {}])}


def any_of(random, depth):
    return {"anyOf": [schema(random, depth + 1) for _ in range(random.randrange(1, 4))]}


def all_of(random, depth):
    first, second = any_object(random, depth + 1), any_object(random, depth + 1)
    for part in (first, second):
        part.pop("additionalProperties", None)
    names = first["properties"].keys() & second["properties"].keys()
    for name in names:
        second["properties"].pop(name)
    second["required"] = [name for name in second["required"] if name not in names]
    return {"allOf": [first, second]}


def any_object(random, depth):
    names = random.sample(NAMES, random.randrange(1, 4))
    result = {
        "type": "object",
        "properties": {name: schema(random, depth + 1) for name in names},
        "required": [name for name in names if random.random() < 0.5],
    }
    if random.random() < 0.6:
        result["additionalProperties"] = False
    return result


def pattern(random, depth=0):
    """A regular expression with the same meaning in Python and in Rust."""
    atoms = ["a", "bc", r"\d", r"\w", "[a-f0-9]", "[^,]", ".", "é", r"\.", "-", r"\(", "/", '"']
    if depth < 3 and random.random() < 0.6:
        inner = pattern(random, depth + 1)
        shape = random.choice(["(?:{})", "({})?", "(?:{}|x)", "({}|{})", "(?:{}){{1,3}}"])
        return shape.format(inner, pattern(random, depth + 1)) + pattern(random, depth + 1)
    parts = [random.choice(atoms) + random.choice(["", "", "?", "+", "*", "{2}", "{1,3}"])]
    parts += [random.choice(atoms) for _ in range(random.randrange(3))]
    return "".join(parts)
