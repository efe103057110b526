"""The flags of `docker run`, `podman run` and `nerdctl run`, with their arity. The sources are the
command line references of these programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tgi.cli.migration.words import Word
from tgi.config import UsageError

__all__ = ["GLOBAL_FLAGS_WITH_VALUE", "LOST_FLAGS", "read_flags", "word_set"]


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


_SHORT = {
    "-a": "--attach",
    "-c": "--cpu-shares",
    "-d": "--detach",
    "-e": "--env",
    "-h": "--hostname",
    "-i": "--interactive",
    "-l": "--label",
    "-m": "--memory",
    "-P": "--publish-all",
    "-p": "--publish",
    "-q": "--quiet",
    "-t": "--tty",
    "-u": "--user",
    "-v": "--volume",
    "-w": "--workdir",
}

_WITHOUT_VALUE = word_set(
    """--detach --disable-content-trust --env-host --help --http-proxy --init --interactive
    --no-healthcheck --no-hostname --no-hosts --oom-kill-disable --passwd --privileged --publish-all
    --quiet --read-only --read-only-tmpfs --replace --rm --rmi --rootfs --sig-proxy --tls-verify
    --tty --unsetenv-all --use-api-socket"""
)

_WITH_VALUE = word_set(
    """--add-host --annotation --arch --attach --authfile --blkio-weight --blkio-weight-device
    --cap-add --cap-drop --cert-dir --cgroup-conf --cgroup-parent --cgroupns --cgroups --chrootdirs
    --cidfile --conmon-pidfile --cosign-certificate-identity --cosign-key --cpu-count --cpu-percent
    --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime --cpu-shares --cpus --cpuset-cpus
    --cpuset-mems --creds --decryption-key --detach-keys --device --device-cgroup-rule
    --device-read-bps --device-read-iops --device-write-bps --device-write-iops --dns --dns-opt
    --dns-option --dns-search --domainname --entrypoint --env --env-file --env-merge --expose
    --gidmap --gpus --group-add --group-entry --health-cmd --health-interval
    --health-log-destination --health-max-log-count --health-max-log-size --health-on-failure
    --health-retries --health-start-interval --health-start-period --health-startup-cmd
    --health-startup-interval --health-startup-retries --health-startup-success
    --health-startup-timeout --health-timeout --hostname --hosts-file --hostuser --image-volume
    --init-path --insecure-registry --io-maximum-bandwidth --io-maximum-iops --ip --ip6 --ipc
    --ipfs-address --isolation --kernel-memory --label --label-file --link --link-local-ip
    --log-driver --log-opt --mac-address --memory --memory-reservation --memory-swap
    --memory-swappiness --mount --name --namespace --net --net-alias --network --network-alias
    --oom-score-adj --os --passwd-entry --personality --pid --pidfile --pids-limit --platform --pod
    --pod-id-file --preserve-fd --preserve-fds --publish --pull --rdt-class --requires --restart
    --retry --retry-delay --runtime --sdnotify --seccomp-policy --secret --security-opt
    --shm-size --shm-size-systemd --signature-policy --snapshotter --stop-signal --stop-timeout
    --storage-opt --subgidname --subuidname --sysctl --systemd --timeout --tmpfs --tz --uidmap
    --ulimit --umask --unsetenv --user --userns --uts --variant --verify --volume --volume-driver
    --volumes-from --workdir"""
)

GLOBAL_FLAGS_WITH_VALUE = word_set(
    """-c -H -l --config --connection --context --host --log-level --root --runroot --storage-driver
    --storage-opt --tlscacert --tlscert --tlskey --url --identity --namespace -n -a --address
    --data-root --snapshotter --cgroup-manager --tmpdir --runtime"""
)
"""The flags with a value between `docker` and `run`."""

LOST_FLAGS = word_set(
    """--add-host --blkio-weight --cgroup-parent --cpu-period --cpu-quota --cpu-shares --cpus
    --cpuset-cpus --cpuset-mems --detach --dns --group-add --health-cmd --health-interval
    --health-retries --health-start-period --health-timeout --ip --link --log-driver --log-opt
    --memory --memory-reservation --memory-swap --mac-address --oom-kill-disable --oom-score-adj
    --pids-limit --pod --read-only --restart --secret --stop-signal --stop-timeout --sysctl
    --tmpfs --ulimit --umask --user --userns --volumes-from --workdir"""
)
"""The flags that have no equivalent for a process outside of a container."""


def read_flags(words: Sequence[Word], program: str) -> tuple[list[tuple[str, Word]], list[Word]]:
    """Return the flags before the image with their long names and values, and the remaining words.
    Raises `UsageError` if a flag is unknown or has no value.
    """
    rest = list(words)
    flags: list[tuple[str, Word]] = []
    while rest and rest[0].starts_with("-"):
        word = rest.pop(0)
        if word.literal == "--":
            break
        flags += _long(word, rest, program) if word.starts_with("--") else _cluster(word, rest)
    return flags, rest


def _long(word: Word, rest: list[Word], program: str) -> Iterator[tuple[str, Word]]:
    flag, has_value, value = word.partition("=")
    name = flag.text
    if name in _WITHOUT_VALUE:
        if value.literal != "false":
            yield name, value
    elif name in _WITH_VALUE:
        yield name, value if has_value else _next(name, rest)
    else:
        raise UsageError(
            f"error: `{name}` is not a known flag of `{program} run`.",
            "Remove the flag and its value from the command.",
        )


def _cluster(word: Word, rest: list[Word]) -> Iterator[tuple[str, Word]]:
    """Return the flags in a word such as `-itp`. The first flag with a value ends the cluster."""
    for at, letter in enumerate(word.atoms[1:], start=2):
        name = _SHORT.get(f"-{letter}")
        if name is None:
            raise UsageError(
                f"error: `-{letter}` in `{word.text}` is not a known flag.", "Remove the flag."
            )
        if name in _WITHOUT_VALUE:
            yield name, Word()
            continue
        value = Word(word.atoms[at:])
        if value.starts_with("="):
            value = Word(value.atoms[1:])
        yield name, value if value else _next(f"-{letter}", rest)
        return


def _next(flag: str, rest: list[Word]) -> Word:
    if not rest:
        raise UsageError(
            f"error: a value is required for '{flag}' but none was supplied.",
            "Give the whole command.",
        )
    return rest.pop(0)
