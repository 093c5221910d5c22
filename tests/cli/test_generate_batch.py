"""`edgeexit generate --prompts`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")

Cli = Callable[..., Any]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(["The above", "Licensor means the copyright owner", [5, 9, 30]]))
    return path


def test_each_is_answered_as_alone(cli: Cli, tiny_lm: Path, prompts: Path) -> None:
    found = cli("generate", tiny_lm, "--prompts", prompts, "--max-tokens", 20, "--json").json
    alone = [
        cli("generate", tiny_lm, *how, "--max-tokens", 20, "--json").json
        for how in (("--prompt", "The above"), ("--prompt", "Licensor means the copyright owner"),
                    ("--prompt-ids", "5,9,30"))
    ]  # fmt: skip
    assert [a["text"] for a in found["answers"]] == [a["text"] for a in alone]
    assert found["tokens_per_second"] > 0 and found["artifact"] == "onnx-decoder-fp32"
    shown = cli("generate", tiny_lm, "--prompts", prompts, "--max-tokens", 20)
    for i, a in enumerate(alone):
        assert f"--- prompt {i}\n{a['text']}" in shown.out
    assert "3 prompts together" in shown.err and "lossless" not in shown.err and "lossy" not in shown.err
    skipped = cli("generate", tiny_lm, "--prompts", prompts, "--max-tokens", 20, "--method", "skip", "--exit", 1)
    assert "lossy: another text" in skipped.err and skipped.out != shown.out


def test_draws_have_a_seed_each(cli: Cli, tiny_lm: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.json"
    path.write_text(json.dumps([[5]] * 3))
    runs = [
        cli("generate", tiny_lm, "--prompts", path, "--max-tokens", 9, "--temperature", 2, "--seed", s, "--json").json
        for s in (4, 4, 5)
    ]
    first, again, later = [[a["ids"] for a in r["answers"]] for r in runs]
    assert first == again and first[0] != first[1] and first[1:] == later[:2]


def test_ids_without_a_tokenizer(cli: Cli, tiny_lm: Path, tmp_path: Path, prompts: Path) -> None:
    shutil.copytree(tiny_lm, tmp_path / "b")
    document = json.loads((tmp_path / "b" / "manifest.json").read_text())
    document["lm"]["tokenizer"] = None
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(document))
    assert "prompt 0 is 'The above'; expected token ids" in cli("generate", tmp_path / "b", "--prompts", prompts).error
    prompts.write_text("[[5, 9], [7]]")
    assert cli("generate", tmp_path / "b", "--prompts", prompts, "--max-tokens", 4).code == 0


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ("{}", [], "expected a JSON list of prompts"),
        ("[]", [], "expected a JSON list of prompts"),
        ("[", [], "prompts.json"),
        ("[true]", [], "prompt 0 is True"),
        ("[[1, 2.5]]", [], "prompt 0 is [1, 2.5]"),
        ("[[1], []]", [], "prompt 1: the prompt is empty"),
        ("[[1], [999]]", [], "prompt 1: token id 999: this model knows 0..271"),
        ("[[-1]]", [], "token id -1"),
        ("[[1]]", ["--prompt", "x"], "--prompts brings all prompts"),
        ("[[1]]", ["--trigger-ids", "1", "--probe-ids", "2"], "takes no stop check"),
        ("[[1]]", ["--method", "lookup"], "lookup is not for several prompts at once"),
        ("[[1]]", ["--max-tokens", "0"], "at least 1"),
        ("[[1]]", ["--stop", ""], "stop string is empty"),
    ],
)
def test_refuses(content: str, options: list[Any], says: str, cli: Cli, tiny_lm: Path, prompts: Path) -> None:
    prompts.write_text(content)
    assert says in cli("generate", tiny_lm, "--prompts", prompts, *options).error


def test_nowhere(cli: Cli, tiny_lm: Path) -> None:
    assert "nowhere.json" in cli("generate", tiny_lm, "--prompts", "nowhere.json").error


@pytest.mark.skipif(os.name == "nt", reason="SIGINT")
def test_ctrl_c_keeps_what_there_is(tiny_lm: Path, prompts: Path) -> None:
    # slowed down, so that there is something to interrupt
    code = (
        "import sys, time; from edgeexit.lm.batch import AnswerBatch; old = AnswerBatch._step\n"
        "AnswerBatch._step = lambda *a: (print('step', file=sys.stderr, flush=True), time.sleep(0.2), old(*a))[2]\n"
        f"sys.argv = ['edgeexit', 'generate', {str(tiny_lm)!r}, '--prompts', {str(prompts)!r}, '--max-tokens', '60']\n"
        "from edgeexit.cli import main; main()"
    )
    running = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    while "step" not in running.stderr.readline():
        pass
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130 and "--- prompt 2" in out
    assert "ended by interrupted 3" in err and "Traceback" not in err
