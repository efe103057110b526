"""The end of an engine because memory ran out, and the smaller cache of the next engine."""

import msgspec
import pytest

from tests.core.server.fake_engine import agreement
from tgi.backend import CacheGroup, KVCachePlan
from tgi.engine.memory_limit import KillCounter, count_kills, with_smaller_cache

from .engine_setup import start_message

# The files of a control group: in version 2, in version 1, and inside a container.
LAYOUTS = {
    "version 2": ("0::/pod/a", "pod/a", "memory.events"),
    "version 1": ("4:memory:/pod/a", "memory/pod/a", "memory.oom_control"),
    "container, version 2": ("0::/../outside", "", "memory.events"),
    "container, version 1": ("4:cpu,memory:/docker/1", "memory", "memory.oom_control"),
}


@pytest.fixture(params=LAYOUTS)
def machine(request, tmp_path):
    line, folder, events = LAYOUTS[request.param]
    return Machine(tmp_path, line, tmp_path / "sys/fs/cgroup" / folder, events)


class Machine:
    """A root folder with the files of a control group."""

    def __init__(self, root, line, group, events):
        self.root, self._group, self._events = root, group, group / events
        group.mkdir(parents=True)
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(f"12:cpuset:/x\n{line}\n")
        (group / "memory.stat").write_text("cache 7\n")
        self.set_kills(3)

    def set_kills(self, count):
        self._events.write_text(f"low 9\noom 1\noom_kill_disable 0\noom_kill {count}\n")

    def watch(self):
        return KillCounter(lambda: count_kills(self.root))


def test_a_kill_of_the_control_group_means_that_memory_ran_out(machine):
    watch = machine.watch()
    assert not watch.has_memory_run_out(0.5)
    machine.set_kills(4)
    assert watch.has_memory_run_out(0.5)
    assert not watch.has_memory_run_out(0.5)


def test_a_kill_of_the_machine_means_that_memory_ran_out(machine):
    watch = machine.watch()
    (machine.root / "proc/vmstat").write_text("pgfault 5\noom_kill 1\n")
    assert watch.has_memory_run_out(0.5)


def test_memory_near_the_limit_means_that_memory_ran_out(machine):
    watch = machine.watch()
    assert not watch.has_memory_run_out(0.94)
    assert watch.has_memory_run_out(0.96)


def test_a_machine_without_these_files_is_not_an_error(tmp_path):
    watch = KillCounter(lambda: count_kills(tmp_path))
    assert not watch.has_memory_run_out(0.5)


def test_the_counters_of_this_machine_can_be_read():
    assert count_kills() >= 0


@pytest.mark.parametrize(
    "plan",
    [
        KVCachePlan("paged", 16, (CacheGroup("full", 64),)),
        KVCachePlan("slots", num_sequence_slots=16, sequence_slot_tokens=64),
    ],
    ids=lambda plan: plan.mode,
)
def test_the_cache_is_halved_down_to_one_sequence(tmp_path, plan):
    start, negotiated, sizes = start_message(tmp_path), agreement(kv_cache=plan), []
    while (smaller := with_smaller_cache(start, negotiated)) is not None:
        requested = smaller.requested
        assert requested.max_total_tokens == negotiated.limits.max_total_tokens
        sizes.append(requested.max_batch_total_tokens)
        cache = msgspec.structs.replace(
            plan,
            groups=(CacheGroup("full", sizes[-1] // 16),),
            num_sequence_slots=requested.max_batch_size,
        )
        negotiated, start = msgspec.structs.replace(negotiated, kv_cache=cache), smaller
    assert sizes == [512, 256, 128, 64]
