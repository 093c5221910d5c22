"""Shared by all tests."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_DATA = Path(__file__).parent / "data"

# A shell's background jobs ignore Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
