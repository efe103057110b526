"""Control requests in the engine's loop: steps in flight, ended sequences, and objects in use."""

from pathlib import Path

from tgi.backend import (
    FEATURES,
    ControlResult,
    EngineConfig,
    ExportBlocks,
    ImportBlocks,
    LoadAdapter,
    RequestedLimits,
    SchedulerOutput,
    Sleep,
    UnloadAdapter,
    Wake,
)
from tgi.engine.core import EngineCore
from tgi.engine.messages import AddSequence, ControlReply, ControlRequest, Shutdown, StepReport
from tgi.scheduler import Scheduler, SchedulerConfig
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.testing.doubles.null_script import NullScript
from tgi.testing.doubles.null_worker import NullWorker
from tgi.testing.strict_worker import StrictWorker

from .engine_setup import CONTROLS, SPEC, request


class RecordingWorker:
    """A null worker that notes how many steps are outstanding at each control request, and what it
    knows of.
    """

    def __init__(self, **script):
        script = NullScript(controls=CONTROLS, **script)
        config = EngineConfig("null", str(Path()), SPEC)
        self._inner = StrictWorker(NullWorker(config, script, RecordingReporter()))
        self._inner.load()
        self.agreement = self._inner.negotiate(
            RequestedLimits(max_concurrent_requests=8, features=tuple(sorted(FEATURES)))
        )
        self._inner.warmup()
        self.num_outstanding = 0
        self.max_outstanding = 0
        self.alive = set()
        self.controls = []  # (request, steps outstanding, sequences alive)

    def submit(self, step):
        assert isinstance(step, SchedulerOutput)
        self.num_outstanding += 1
        self.max_outstanding = max(self.max_outstanding, self.num_outstanding)
        self.alive -= set(step.dropped)
        self.alive |= {new.sequence for new in step.added}
        self._inner.submit(step)

    def collect(self):
        self.num_outstanding -= 1
        return self._inner.collect()

    def control(self, control):
        self.controls.append((control, self.num_outstanding, len(self.alive)))
        return self._inner.control(control)


class ScriptedFrontend:
    """Sends `messages[n]` before step n, and shuts the engine down when all sequences ended."""

    def __init__(self, messages, num_sequences):
        self._messages = dict(messages)
        self._num_receives = 0
        self._num_left = num_sequences
        self.replies = {}
        self.tokens = {}
        self.errors = {}
        self.order = []

    def receive(self, *, wait):
        del wait
        messages = self._messages.pop(self._num_receives, [])
        self._num_receives += 1
        return messages if self._messages or messages or self._num_left else [Shutdown()]

    def is_quiet(self, seconds):
        return seconds > 0

    def send(self, message):
        if isinstance(message, ControlReply):
            self.replies[message.control_id] = message.result
            self.order.append(message.control_id)
            return
        assert isinstance(message, StepReport)
        for output in message.outputs:
            self.tokens.setdefault(output.sequence_id, []).extend(output.token_ids)
            if output.error is not None:
                self.errors[output.sequence_id] = output.error
            self._num_left -= output.error is not None or output.finish_reason is not None


def serve(worker, messages, num_sequences):
    scheduler = Scheduler(worker.agreement, SchedulerConfig(), hash_key=b"k" * 32)
    frontend = ScriptedFrontend(messages, num_sequences)
    EngineCore(worker, scheduler, frontend, worker.agreement.limits.depth).run()
    scheduler.check()
    return frontend


def test_steps_in_flight_are_drained_before_a_control_request():
    worker = RecordingWorker(depth=3)
    messages = {
        0: [AddSequence(1, request([5, 6], 12)), AddSequence(2, request([7], 12))],
        4: [ControlRequest(1, LoadAdapter(1, "nowhere"))],
        7: [ControlRequest(2, UnloadAdapter(1)), ControlRequest(3, LoadAdapter(2, "nowhere"))],
    }
    frontend = serve(worker, messages, 2)
    assert worker.max_outstanding == 3
    assert [outstanding for _, outstanding, _ in worker.controls] == [0, 0, 0]
    assert [alive for _, _, alive in worker.controls] == [2, 2, 2]
    assert frontend.order == [1, 2, 3]
    assert all(result.ok for result in frontend.replies.values())
    assert frontend.tokens == {1: [5, 6] * 6, 2: [7] * 12}


def test_the_worker_hears_of_ended_sequences_before_a_control_request():
    worker = RecordingWorker()
    messages = {
        0: [AddSequence(1, request([5], 2)), AddSequence(2, request([7], 6))],
        2: [ControlRequest(1, LoadAdapter(1, "nowhere"))],
        8: [ControlRequest(2, Sleep())],
    }
    frontend = serve(worker, messages, 2)
    assert [alive for _, _, alive in worker.controls] == [1, 0]
    assert frontend.replies[2].ok


def test_sleep_needs_all_sequences_to_end_and_forgets_the_prefix_cache():
    worker = RecordingWorker()
    prompt = list(range(10, 45))
    messages = {
        0: [AddSequence(1, request(prompt, 4))],
        2: [ControlRequest(1, Sleep())],
        8: [AddSequence(2, request(prompt, 1))],
        12: [ControlRequest(2, Sleep()), AddSequence(3, request(prompt, 1))],
        14: [ControlRequest(3, Wake()), AddSequence(4, request(prompt, 1))],
    }
    scheduler = Scheduler(worker.agreement, SchedulerConfig(), hash_key=b"k" * 32)
    frontend, cached = ScriptedFrontend(messages, 4), {}
    send = frontend.send

    def note_and_send(message):
        if isinstance(message, StepReport):
            cached.update({o.sequence_id: o.num_cached_tokens for o in message.outputs})
        send(message)

    frontend.send = note_and_send
    EngineCore(worker, scheduler, frontend, 1).run()
    scheduler.check()
    assert frontend.replies[1] == ControlResult(False, "1 sequences are unfinished")
    assert (frontend.replies[2].ok, frontend.replies[3].ok) == (True, True)
    assert frontend.errors == {3: "The engine is asleep"}
    assert (cached[2], cached[4]) == (32, 0)


def test_blocks_in_use_are_not_imported():
    worker = RecordingWorker(num_blocks=8)
    messages = {
        0: [AddSequence(1, request([5] * 20, 8))],
        2: [
            ControlRequest(1, ImportBlocks((0,), "x")),
            ControlRequest(2, ImportBlocks((7,), "x")),
            ControlRequest(3, ExportBlocks((0,), "x")),
        ],
        14: [
            ControlRequest(4, ImportBlocks((0,), "x")),
            ControlRequest(5, ImportBlocks((7,), "x")),
        ],
    }
    frontend = serve(worker, messages, 1)
    refused = [control_id for control_id, result in frontend.replies.items() if not result.ok]
    assert refused == [1, 4], "block 0 is held, then cached; block 7 is free"


def test_an_adapter_in_use_stays():
    worker = RecordingWorker(features=(*NullScript().features, "lora"))
    messages = {
        0: [ControlRequest(1, LoadAdapter(1, "nowhere"))],
        1: [AddSequence(1, request([5], 4, adapter=1)), AddSequence(2, request([5], 4, adapter=2))],
        3: [ControlRequest(2, UnloadAdapter(1))],
        9: [ControlRequest(3, UnloadAdapter(1)), AddSequence(3, request([5], 4, adapter=1))],
    }
    frontend = serve(worker, messages, 3)
    assert frontend.replies[2] == ControlResult(False, "1 unfinished sequences use adapter 1")
    assert frontend.replies[3].ok
    assert frontend.tokens[1] == [5] * 4
    assert frontend.errors == {2: "Adapter 2 is not loaded", 3: "Adapter 1 is not loaded"}
