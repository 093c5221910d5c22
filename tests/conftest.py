"""Fixtures of all tests: the bundles of `data/`, the command line, one thread per process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import once

_DATA = Path(__file__).parent / "data"

# As many processes as cores, one thread in each: set before numpy and torch read it, and inherited by subprocesses.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A shell's background jobs ignore Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

_OPTIONAL = {"ai_edge_litert", "hypothesis", "ncnn", "onnx", "onnx_ir", "onnxscript", "scipy", "tokenizers", "torch"}
"""Packages that are not on every platform; the wheel test has none of them."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file whose imports need an optional package that is not here is skipped, with the package's name."""
    report = yield
    missing = re.search(r"ModuleNotFoundError: No module named '(\w+)", str(report.longrepr)) if report.failed else None
    if missing and missing[1] in _OPTIONAL:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {missing[1]} is not installed")
    return report


_left_out: set[str] = set()
"""Node ids of slow tests; worker processes hand theirs to the one that reports."""


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    _left_out.update(i.nodeid for i in items if i.get_closest_marker("slow"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = sorted(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _left_out.update(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left_out:
        terminalreporter.line(f"{len(_left_out)} slow tests left out; all tests: make test-all, or pytest -m ''")


@pytest.fixture(scope="session", autouse=True)
def _shared_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    once.share(tmp_path_factory)


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The bundle that `data/make_tiny.py` made: 3 exits, 4 inputs, 3 classes. Do not change it."""
    return _DATA / "tiny.edgeexit"


@pytest.fixture(scope="session")
def tiny_lm(tiny: Path) -> Path:
    """The language model that `data/make_tiny_lm.py` made: 4 exits, 272 tokens, fp32 and int8. Do not change it."""
    return tiny.parent / "tiny-lm.edgeexit"


@pytest.fixture(scope="session")
def tiny_lm_short(tiny: Path) -> Path:
    """The same, with maps and a list of 64 tokens at its early exits. Do not change it."""
    return tiny.parent / "tiny-lm-short.edgeexit"


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny.edgeexit"))


class Ran(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))

    @property
    def error(self) -> str:
        """The one line that a refused command prints."""
        assert self.code == 1, self
        assert self.out == "", self
        assert self.err.startswith("error: ") and self.err.endswith("\n") and self.err.count("\n") == 1, self.err
        return self.err[len("error: ") :].strip()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs the command line in this process: `cli("inspect", path, "--json")`."""
    from edgeexit.cli import main

    def run(*arguments: Any) -> Ran:
        monkeypatch.setattr(sys, "argv", ["edgeexit", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code
        return Ran(code if isinstance(code, int) else 0 if code is None else 1, *capfd.readouterr())

    return run
