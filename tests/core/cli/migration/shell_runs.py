"""Runs scripts in a real shell in which some programs only record their arguments."""

import os
import shlex
import subprocess
from dataclasses import dataclass

# Variables that the shell itself sets.
OWN = {"_", "PWD", "OLDPWD", "SHLVL", "PATH", "HOME", "USER", "RECORD"}
STUB = """#!/bin/sh
{{ printf '%s\\0' {name} "$@"; printf '\\001\\0'; env -0; }} > "$RECORD"
"""
PROGRAMS = ("tgi", "docker", "podman", "nvidia-docker", "text-generation-launcher")


@dataclass(frozen=True)
class Recorded:
    """The arguments of the recorded program, and its environment without the shell's variables."""

    arguments: tuple[str, ...]
    environment: dict[str, str]

    def as_command(self, before):
        """Return the command with the variables that the environment `before` does not have."""
        added = {
            name: value for name, value in self.environment.items() if before.get(name) != value
        }
        words = [f"{name}={shlex.quote(value)}" for name, value in added.items()]
        return " ".join([*words, shlex.join(self.arguments)])


def run_script(script, folder, environment, arguments=(), shell="bash"):
    """Run a script in `folder`. Returns the recorded call, or None if there was none."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name in PROGRAMS:
        (programs / name).write_text(STUB.format(name=name))
        (programs / name).chmod(0o755)
    record = folder / "record"
    record.unlink(missing_ok=True)
    subprocess.run(
        [shell, "-c", script, "script", *arguments],
        cwd=folder,
        env={
            **environment,
            "PATH": f"{programs}:{os.defpath}:/usr/bin:/bin",
            "HOME": "/home/someone",
            "USER": "someone",
            "RECORD": str(record),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    if not record.exists():
        return None
    words, _, variables = record.read_text().partition("\0\1\0")
    pairs = (line.partition("=")[::2] for line in variables.split("\0") if "=" in line)
    return Recorded(
        tuple(words.split("\0")), {name: value for name, value in pairs if name not in OWN}
    )
