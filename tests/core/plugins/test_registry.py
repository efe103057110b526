"""Backend discovery: names are listed without imports, each faulty plugin has an error message, and
other plugins still work.
"""

import subprocess
import sys
from importlib import metadata

import pytest

from tgi.architectures import GenericSpec
from tgi.backend import BackendError, EngineConfig
from tgi.plugins import BackendRegistry

SPEC = GenericSpec(
    model_type="x",
    vocab_size=8,
    hidden_size=8,
    num_layers=1,
    num_kv_heads=1,
    head_dim=8,
    max_positions=8,
    config={},
)
CONFIG = EngineConfig("auto", "", SPEC)

GOOD = """
from tgi.backend import BackendInfo, ProbeResult, Support, hookimpl, API_VERSION
class B:
    info = BackendInfo("{name}", {api}, "package-of-{name}", "1.0", {priority})
    def probe(self): {probe}
    def supports(self, spec, config): return Support("native")
    {create}
@hookimpl
def tgi_backend(): return B()
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that writes a plugin module. The function returns a registry of all plugins
    written so far.
    """
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def add(
        name,
        *,
        source=None,
        api="API_VERSION",
        priority=0,
        probe="return ProbeResult(True)",
        create=None,
        calls_itself=None,
    ):
        module = f"plugin_{tmp_path.name.replace('-', '_')}_{name}_{len(made)}"
        create = "def create_worker(self, config, host): ..." if create is None else create
        text = GOOD if source is None else source
        text = (
            text.replace("{name}", calls_itself or name)
            .replace("{api}", api)
            .replace("{priority}", str(priority))
        )
        (tmp_path / f"{module}.py").write_text(
            text.replace("{probe}", probe).replace("{create}", create)
        )
        made.append(metadata.EntryPoint(name, module, "tgi.backends"))
        return BackendRegistry(made)

    return add


def problem(registry, name):
    return registry.candidate(name).problem


def test_names_are_listed_without_an_import(install):
    registry = install("broken", source="raise RuntimeError('imported')")
    assert registry.names == ("broken",)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"create": "pass"}, "its backend has no `create_worker` (see `tgi.backend.Backend`)"),
        ({"api": "(1, 0)"}, "it was built for version 1.0 of the backend interface"),
        (
            {"api": "(2, 99)"},
            "it was built for version 2.99 of the backend interface, but tgi has version 2.0",
        ),
        ({"probe": "raise OSError('no driver')"}, "its `probe` raised OSError: no driver"),
        ({"probe": "return ProbeResult(False, 'no device found')"}, "no device found"),
        (
            {"source": "import no_such_library"},
            "the import failed: ModuleNotFoundError: No module named 'no_such_library'",
        ),
        ({"source": "x = 1"}, "implements the hook `tgi_backend` 0 times instead of once"),
        ({"calls_itself": "other"}, "its name is `other` but it is registered as `bad`"),
        (
            {"source": "from tgi.backend import hookimpl\n@hookimpl\ndef tgi_backend(extra): ..."},
            (
                "Argument(s) {'extra'} are declared in the hookimpl but can not be found in the"
                " hookspec"
            ),
        ),
        (
            {"source": "from tgi.backend import hookimpl\n@hookimpl\ndef tgi_bakend(): ..."},
            "unknown hook 'tgi_bakend'",
        ),
    ],
)
def test_a_faulty_plugin_has_a_message_and_others_still_work(install, fault, sentence):
    install("bad", priority=50, **fault)
    registry = install("good")
    assert sentence in problem(registry, "bad")
    assert registry.candidate("good").usable
    assert registry.select("auto", SPEC, CONFIG).chosen.name == "good"
    with pytest.raises(BackendError, match="The backend `bad` cannot be used"):
        registry.select("bad", SPEC, CONFIG)


def test_a_name_registered_twice(install):
    install("twice")
    install("twice")
    registry = install("good", priority=-5)
    assert "the name is registered twice" in problem(registry, "twice")
    assert registry.select("auto", SPEC, CONFIG).chosen.name == "good"


def test_auto_selects_the_highest_priority_and_shows_every_status(install):
    install("slow", priority=-100)
    install("absent", priority=50, probe="return ProbeResult(False, 'no device')")
    selection = install("fast", priority=10).select("auto", SPEC, CONFIG)
    assert selection.chosen.name == "fast"
    assert {c.name: c.status for c in selection.candidates} == {
        "absent": "no device",
        "fast": "usable (native)",
        "slow": "usable (native)",
    }


def test_auto_rejects_equal_priorities(install):
    install("one")
    with pytest.raises(BackendError, match="`one` and `two` have the same priority 0"):
        install("two").select("auto", SPEC, CONFIG)


def test_an_unsupported_model_is_reported_with_the_reason(install):
    unsupporting = GOOD.replace('Support("native")', 'Support("no", ("the family x is unknown",))')
    registry = install("picky", source=unsupporting)
    with pytest.raises(BackendError, match="cannot be used: the family x is unknown"):
        registry.select("picky", SPEC, CONFIG)
    with pytest.raises(
        BackendError,
        match="No installed backend can serve this model on this machine \\(picky: the family x",
    ):
        registry.select("auto", SPEC, CONFIG)


def test_nothing_installed():
    with pytest.raises(BackendError, match=r"No backend is installed\. Install one"):
        BackendRegistry([]).select("auto", SPEC, CONFIG)


def test_an_unknown_name_lists_the_known_ones(install):
    with pytest.raises(BackendError, match=r"`gpux` is not installed\. Installed: `good`"):
        install("good").select("gpux", SPEC, CONFIG)


def test_the_null_backend_is_an_entry_point_that_auto_ignores():
    registry = BackendRegistry()
    assert "null" in registry.names
    assert registry.select("null", SPEC, CONFIG).chosen.name == "null"
    null = metadata.EntryPoint("null", "tgi.testing.doubles.null_backend", "tgi.backends")
    with pytest.raises(BackendError, match="only when named"):
        BackendRegistry([null]).select("auto", SPEC, CONFIG)


def test_discovery_imports_no_framework():
    code = (
        "import sys\nfrom tgi.plugins import BackendRegistry\n"
        "names = [c.name for c in BackendRegistry().candidates()]\n"
        "assert 'null' in names, names\n"
        "bad = {'torch', 'jax', 'transformers'} & set(sys.modules)\nassert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
