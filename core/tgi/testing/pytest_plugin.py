"""The pytest plugin, with the option `--tgi-backend` and the conformance suite as tests.

`pytest --tgi-backend NAME` runs the suite on that backend if no paths are given on the command line
or in the configuration. If there are paths, pytest runs the tests in these paths. These tests get
the name from the fixture `tgi_backend`. The suite itself can be given as `--pyargs
tgi.testing.conformance.suite`. The suite is imported only when needed, because pytest loads this
file in every project of the environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tgi.testing.conformance.suite import SuiteRun

__all__ = [
    "pytest_addoption",
    "pytest_configure",
    "pytest_terminal_summary",
    "tgi_backend",
    "tgi_suite_run",
]

_SUITE = Path(__file__).parent / "conformance" / "suite.py"
_RUN = pytest.StashKey["SuiteRun"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the conformance suite."""
    group = parser.getgroup("tgi", "backends of tgi")
    group.addoption(
        "--tgi-backend",
        default=None,
        metavar="NAME",
        help="backend under test; without paths, the conformance suite runs on it",
    )
    group.addoption(
        "--tgi-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the backend; may be repeated",
    )
    group.addoption(
        "--tgi-json", default=None, metavar="FILE", help="write the suite's scorecard to FILE"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Run the suite if the command line has a backend but no tests."""
    if (
        config.getoption("--tgi-backend")
        and config.args_source is pytest.Config.ArgsSource.INVOCATION_DIR
    ):
        config.args = [str(_SUITE)]
        # The suite is part of an installed package, so its folder must not be added to sys.path.
        config.option.importmode = "importlib"


@pytest.fixture(scope="session")
def tgi_backend(request: pytest.FixtureRequest) -> str:
    """The name of the backend under test. The default is `null`."""
    name: str | None = request.config.getoption("--tgi-backend")
    return name or "null"


@pytest.fixture(scope="session")
def tgi_suite_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SuiteRun]:
    """One run of the suite on the backend under test."""
    from tgi.testing.conformance.suite import SuiteRun  # noqa: PLC0415 - see above

    config = request.config
    name: str | None = config.getoption("--tgi-backend")
    if name is None:
        pytest.fail(
            "No backend is named, so no check of the conformance suite can run. Pass `--tgi-backend"
            " NAME`, or add it to `addopts` in pyproject.toml.",
            pytrace=False,
        )
    run = SuiteRun(name, tmp_path_factory.mktemp("conformance"), config.getoption("--tgi-option"))
    config.stash[_RUN] = run
    yield run
    run.close(config.getoption("--tgi-json"))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the scorecard in one line."""
    run = config.stash.get(_RUN, None)
    if run is not None and run.summary:
        terminalreporter.write_sep("=", "conformance")
        terminalreporter.write_line(run.summary)
