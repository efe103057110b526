"""Finds the commands that start TGI 3 in a shell command or in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tgi.cli.migration.launch import Launch
from tgi.cli.migration.readers.build_files import read_dockerfile, read_makefile, read_unit
from tgi.cli.migration.readers.sagemaker_code import read_python
from tgi.cli.migration.readers.yaml_files import read_yaml
from tgi.cli.migration.script import read_script
from tgi.config import UsageError

__all__ = ["read_compose", "read_file", "read_line", "read_lines"]

_SUFFIXES = (
    *(".bash", ".Dockerfile", ".dockerfile", ".hcl", ".json", ".mk", ".py", ".sbatch", ".service"),
    *(".sh", ".slurm", ".tf", ".yaml", ".yml"),
)
_NAMES = ("Makefile", "makefile", "GNUmakefile", "Dockerfile", "Containerfile")


def read_lines(text: str) -> dict[str, Launch | UsageError]:
    """Return the commands in a shell text that start TGI, by name. The name of a single command is
    empty.
    """
    starts = read_script(text)
    if len(starts) == 1:
        return {"": starts[0]}
    return {f"command {at}": start for at, start in enumerate(starts, 1)}


def read_line(line: str) -> Launch:
    """Return the first command in a shell text that starts TGI. Raises `UsageError` if there is
    none.
    """
    return read_script(line)[0]


def read_compose(text: str) -> dict[str, Launch]:
    """Return the services of a Compose file that run TGI by name. Raises `UsageError` if a service
    cannot be read, or if no service runs TGI.
    """
    starts = {}
    for name, start in read_yaml(text).items():
        if isinstance(start, UsageError):
            raise start
        starts[name] = start
    return starts


def _terraform(text: str) -> dict[str, Launch | UsageError]:
    del text
    raise UsageError(
        "error: tgi migrate does not read Terraform files.",
        "Give the arguments and variables of the container as a `docker run` command, or run"
        " `tgi sagemaker` with the variables of the SageMaker model.",
    )


_READERS: Mapping[str, Callable[[str], Mapping[str, Launch | UsageError]]] = {
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".json": read_yaml,
    ".service": read_unit,
    ".mk": read_makefile,
    "makefile": read_makefile,
    "gnumakefile": read_makefile,
    ".dockerfile": read_dockerfile,
    "dockerfile": read_dockerfile,
    "containerfile": read_dockerfile,
    ".py": read_python,
    ".tf": _terraform,
    ".hcl": _terraform,
}


def read_file(text: str) -> Mapping[str, Launch | UsageError] | None:
    """Return the commands in the file with this name that start TGI, or None if `text` is not the
    name of a file. Raises `UsageError` if the file cannot be read.
    """
    name = text.strip()
    path = Path(name)
    if "\n" in name or len(name.split()) != 1 or not _is_name(path):
        return None
    if not path.is_file():
        raise UsageError(
            f"error: the file `{path}` does not exist.",
            "Give the name of a file that starts TGI, or quote the whole command.",
        )
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"error: the file `{path}` cannot be read: {error}.") from error
    stem = path.name.partition(".")[0].partition("-")[0].lower()
    reader = _READERS.get(path.suffix.lower()) or _READERS.get(stem, read_lines)
    starts = reader(content)
    if not starts:
        raise UsageError(f"error: nothing in the file `{path}` starts TGI.", "Give another file.")
    return starts


def _is_name(path: Path) -> bool:
    return path.suffix in _SUFFIXES or path.name in _NAMES or path.is_file()
