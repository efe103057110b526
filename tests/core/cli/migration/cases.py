"""The record of one input of `tgi migrate` with its expected output."""

from dataclasses import dataclass

IMAGE = "ghcr.io/huggingface/text-generation-inference:3.3.5"
DOCKER = "docker run --gpus all -p 8080:80"


@dataclass(frozen=True)
class Case:
    """`text` is a command, or the content of the file `file`. `script` is the printed command with
    its assignments, or None if the text is rejected. For a file with several starts, `script`
    contains the commands of all of them. `notes` and `absent` are parts of sentences that are
    printed and that are not printed.
    """

    name: str
    text: str
    script: str | None
    notes: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    file: str = ""

    def __str__(self) -> str:
        return self.name
