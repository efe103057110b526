"""Parses the values of container flags: ports, mounts and accelerators."""

from __future__ import annotations

from collections.abc import Iterable

from tgi.cli.migration.data import GPU_DEVICE_PREFIX
from tgi.cli.migration.launch import Devices, Mount, PublishedPort
from tgi.cli.migration.words import Atom, Word

__all__ = ["read_devices", "read_mount_flag", "read_port", "read_volume", "split_variable"]


def read_port(word: Word) -> list[PublishedPort]:
    """Parse a port mapping such as `8080:80`, `127.0.0.1:8080:80/tcp`, `80` or `81-82:81-82`."""
    *outside, inside = _address_and_ports(word.partition("/")[0])
    published = outside[-1] if outside else Word()
    address = outside[0].stripped("[]") if len(outside) > 1 else Word()
    firsts, lasts = _range(inside), _range(published)
    if firsts is not None and lasts is not None and len(firsts) == len(lasts):
        return [
            PublishedPort(Word.of(str(first)), Word.of(str(last)), address)
            for first, last in zip(firsts, lasts, strict=True)
        ]
    return [PublishedPort(inside, published, address)]


def _address_and_ports(word: Word) -> list[Word]:
    """Split a mapping at its colons. An IPv6 address in brackets is one part."""
    if not word.starts_with("["):
        return word.split(":")
    address, _, rest = word.partition("]")
    return [address, *Word(rest.atoms[1:]).split(":")]


def _range(word: Word) -> range | None:
    first, is_range, last = word.partition("-")
    if not is_range or not (first.text.isdecimal() and last.text.isdecimal()):
        return None
    return range(int(first.text), int(last.text) + 1)


def read_volume(word: Word) -> Mount | None:
    """Parse a volume such as `/outside:/inside:ro` or `name:/inside`. Returns None for a volume
    without a source.
    """
    parts = word.split(":")
    if len(parts) < 2:
        return None
    return _mount(parts[0], parts[1])


def read_mount_flag(word: Word) -> Mount | None:
    """Parse the value of `--mount`, for example `type=bind,source=/outside,target=/inside`."""
    fields: dict[str, Word] = {}
    for part in word.split(","):
        name, _, value = part.partition("=")
        fields[name.text] = value
    source = fields.get("source") or fields.get("src") or Word()
    target = fields.get("target") or fields.get("destination") or fields.get("dst") or Word()
    if fields.get("type", Word()).text == "tmpfs" or not target:
        return None
    return _mount(source, target)


def _mount(source: Word, target: Word) -> Mount:
    literal = source.literal
    target = _without_last_slash(target)
    if literal is not None and not literal.startswith((".", "/", "~")) and "/" not in literal:
        return Mount(target, volume=literal or "without a name")
    return Mount(target, _without_last_slash(source))


def _without_last_slash(word: Word) -> Word:
    return Word(word.atoms[:-1]) if len(word.atoms) > 1 and word.atoms[-1] == "/" else word


def read_devices(gpus: Iterable[Word], devices: Iterable[Word]) -> Devices | None:
    """Parse the values of `--gpus` and `--device`. Returns None if they name no accelerator."""
    ids: list[Word] = []
    for word in devices:
        name = word.without_prefix(Word.of(GPU_DEVICE_PREFIX))
        if name is not None:
            ids.append(name)
    if ids:
        return _devices_of(ids)
    for word in gpus:
        return _gpu_request(word)
    return None


def _gpu_request(word: Word) -> Devices:
    """Parse a request such as `all`, `2`, `device=0`, or a list of such fields. A field in double
    quotes may contain commas.
    """
    if (word.literal or "").isdecimal():
        return Devices(count=int(word.text))
    ids: list[Word] = []
    for field in _fields(word):
        name, has_value, value = field.partition("=")
        if has_value and name.text == "device":
            ids += value.split(",")
        elif has_value and name.text == "count" and (value.literal or "").isdecimal():
            return Devices(count=int(value.text))
        elif not has_value and ids:
            ids.append(field)
    return _devices_of(ids)


def _fields(word: Word) -> list[Word]:
    """Split a word at its commas outside of double quotes, and remove the quotes."""
    fields: list[list[Atom]] = [[]]
    is_quoted = False
    for atom in word.atoms:
        if atom == '"':
            is_quoted = not is_quoted
        elif atom == "," and not is_quoted:
            fields.append([])
        else:
            fields[-1].append(atom)
    return [Word(tuple(field)) for field in fields]


def _devices_of(ids: list[Word]) -> Devices:
    if not ids or any(each.literal == "all" for each in ids):
        return Devices()
    joined = ids[0]
    for each in ids[1:]:
        joined = joined + Word.of(",") + each
    return Devices(ids=joined)


def split_variable(word: Word) -> tuple[str, Word | None]:
    """Split `NAME=value`. The value is None if `word` is only a name."""
    name, has_value, value = word.partition("=")
    return name.text, value if has_value else None
