"""`edgeexit generate` and `edgeexit simulate` on the tiny language model."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers", reason="tokenizers turns text into tokens and back")

from edgeexit.cli.generate import setting_arguments
from edgeexit.lm.settings import Decoding

Cli = Callable[..., Any]
PROMPT = "the License "


@pytest.fixture
def text(tmp_path: Path, tiny_lm: Path) -> Path:
    (tmp_path / "text.txt").write_text("the License shall apply to any Work, and you may copy the Work. " * 12)
    return tmp_path / "text.txt"


@pytest.mark.parametrize(
    "options, says",
    [
        ([], "plain decoding"),
        (
            ["--method", "speculative", "--exit", "1", "--draft", "6", "--threshold", "0.4"],
            "lossless: verified on export",
        ),
        (["--method", "lookup"], "lossless: verified"),
        (["--method", "del"], "lossless: verified"),
        (["--method", "calm", "--threshold", "0.5", "--repair"], "lossy"),
        (["--method", "skip", "--exit", "2"], "lossy"),
        (["--artifact", "int8", "--method", "speculative", "--exit", "2"], "verified"),
        (["--temperature", "0.8", "--top-k", "20", "--top-p", "0.9", "--seed", "3"], "plain decoding"),
        (
            ["--method", "speculative", "--exit", "0", "--temperature", "0.8"],
            "drawn from plain decoding's distribution",
        ),
    ],
    ids=lambda o: " ".join(o)[:30] if isinstance(o, list) else "",
)
def test_generate(options: list[str], says: str, cli: Cli, tiny_lm: Path) -> None:
    found = cli("generate", tiny_lm, "--prompt", PROMPT, "--max-tokens", 20, *options)
    assert found.code == 0, found
    last = found.err.splitlines()[-1]
    assert says in last and "20 tokens" in last and "ended by length" in last
    assert found.out.strip()
    as_json = cli("generate", tiny_lm, "--prompt", PROMPT, "--max-tokens", 20, *options, "--json").json
    if "del" not in options:  # its costs are measured anew
        assert found.out == as_json["text"] + "\n"
    assert len(as_json["ids"]) == 20 and as_json["reason"] == "length" and as_json["tokens_per_second"] > 0


def test_more_drafts_than_were_proved_are_not_called_lossless(cli: Cli, tiny_lm: Path) -> None:
    found = cli("generate", tiny_lm, "--prompt", PROMPT, "--method", "lookup", "--draft", 20, "--max-tokens", 10)
    assert "lossless" not in found.err
    assert "up to 9 tokens together were compared on export, this takes 21; to have it, export again" in found.err


def test_drawn_text_claims_no_more_than_what_was_compared(cli: Cli, tiny_lm: Path) -> None:
    found = cli("generate", tiny_lm, "--prompt", PROMPT, "--method", "lookup", "--draft", 20, "--max-tokens", 10,
                "--temperature", 0.8)  # fmt: skip
    assert "approximate" not in found.err and "drawn from" not in found.err and "--block 21" in found.err


def test_an_approximate_artifact_is_never_called_lossless(cli: Cli, tiny_lm: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_lm, tmp_path / "b")
    document = json.loads((tmp_path / "b" / "manifest.json").read_text())
    for artifact in document["artifacts"]:
        artifact["proof"].update(lossless="approximate", flips=3, max_difference=1.2)
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(document))
    (tmp_path / "t.txt").write_text("the License shall apply to any Work. " * 20)
    for arguments in (
        ("generate", tmp_path / "b", "--prompt", PROMPT, "--method", "speculative", "--exit", 2, "--max-tokens", 5),
        ("simulate", tmp_path / "b", "--text", tmp_path / "t.txt", "--prompts", 2, "--prompt-tokens", 20, "--n", 1),
    ):  # fmt: skip
        found = cli(*arguments)
        assert found.code == 0 and "lossless" not in found.out + found.err
    assert (
        "approximate: the text may differ"
        in cli("generate", tmp_path / "b", "--prompt", PROMPT, "--method", "lookup", "--max-tokens", 5).err
    )


def test_ids_in_and_out(cli: Cli, tiny_lm: Path, tmp_path: Path) -> None:
    want = cli("generate", tiny_lm, "--prompt-ids", "5,9 30", "--max-tokens", 6, "--json").json["ids"]
    shutil.copytree(tiny_lm, tmp_path / "b")
    document = json.loads((tmp_path / "b" / "manifest.json").read_text())
    document["lm"]["tokenizer"] = None
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(document))
    assert cli("generate", tmp_path / "b", "--prompt-ids", "5,9,30", "--max-tokens", 6).out.split() == [
        str(i) for i in want
    ]
    assert "no tokenizer" in cli("generate", tmp_path / "b", "--prompt", "x").error
    np.save(tmp_path / "ids.npy", np.tile(np.arange(1, 60), 6))
    found = cli("simulate", tmp_path / "b", "--text", tmp_path / "ids.npy", "--prompts", 2, "--prompt-tokens", 8,
                "--max-tokens", 8, "--n", 1)  # fmt: skip
    assert found.code == 0, found


def test_stop_strings_and_files(cli: Cli, tiny_lm: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(PROMPT)
    found = cli("generate", tiny_lm, "--prompt-file", tmp_path / "p.txt", "--max-tokens", 60, "--json").json
    stop = found["text"][9:12]
    cut = cli("generate", tiny_lm, "--prompt", PROMPT, "--max-tokens", 60, "--stop", stop, "--json").json
    assert cut["reason"] == "stop" and cut["text"] == found["text"][: found["text"].index(stop)]


def test_stop_checks(cli: Cli, tiny_lm: Path) -> None:
    plain = cli("generate", tiny_lm, "--prompt", PROMPT, "--max-tokens", 40, "--json").json
    assert plain["probe"] is None
    word = next(w for w in plain["text"].split()[2:] if cli("generate", tiny_lm, "--prompt", PROMPT, "--max-tokens", 1,
                "--trigger", w, "--probe", "x").code == 0)  # fmt: skip
    ask = ("--prompt", PROMPT, "--max-tokens", 40, "--trigger", word, "--probe", "\\nit is ", "--probe-tokens", 3)
    done = cli("generate", tiny_lm, *ask, "--probe-threshold", 0, "--json").json
    assert done["reason"] == "answered" and len(done["probe"]["confidences"]) == 1 and done["same"] is False
    before, _, answer = done["text"].partition("\nit is ")
    assert answer and plain["text"].startswith(before) and len(before) < len(plain["text"])
    going = cli("generate", tiny_lm, *ask, "--probe-threshold", 0.9999, "--probe-tries", 2, "--json").json
    assert going["text"] == plain["text"] and 1 <= len(going["probe"]["confidences"]) <= 2
    by_ids = cli("generate", tiny_lm, "--prompt", PROMPT, "--max-tokens", 40, "--probe-threshold", 0, "--probe-tokens",
                 3, "--trigger-ids", ",".join(map(str, done["probe"]["triggers"])), "--probe-ids",
                 ",".join(map(str, done["probe"]["probe"])), "--json").json  # fmt: skip
    assert by_ids["ids"] == done["ids"]
    told = cli("generate", tiny_lm, *ask, "--method", "speculative", "--exit", 1, "--probe-mean", "geometric")
    assert "asked for the answer" in told.err and "lossless" not in told.err and "drafts: verified" in told.err
    assert "no trigger came" in cli("generate", tiny_lm, "--prompt", PROMPT, "--max-tokens", 1, "--trigger-ids",
                                    "271", "--probe", "x").err  # fmt: skip


def test_the_tokens_of_a_word(tiny_lm: Path) -> None:
    from edgeexit.lm.loading import load_lm
    from edgeexit.lm.text.tokenizer import text_of

    found = text_of(load_lm(tiny_lm))
    blanks = [i for i in range(found.tokens) if found.decode([i]).strip() == "the"]
    assert len(blanks) >= 1 and found.tokens_of("the") == blanks
    assert found.tokens_of("<|endoftext|>") == [0]  # no text of its own
    assert found.tokens_of("\n") == found.encode("\n") and found.tokens_of("") == []


def test_control_characters_do_not_reach_the_terminal() -> None:
    from edgeexit.cli.common import shown

    assert shown("a\x1b[31mb\r\n\tc\x07") == "a[31mb\n\tc"


@pytest.mark.parametrize(
    "options, says",
    [
        (["--prompt", ""], "prompt is empty"),
        ([], "give one of"),
        (["--prompt", "x", "--prompt-ids", "1"], "give one of"),
        (["--prompt-ids", "1,x"], "whole numbers"),
        (["--prompt-ids", "999"], "0..271"),
        (["--prompt", "x " * 300], "context is 96"),
        (["--prompt", "x", "--method", "speculative"], "needs the exit"),
        (["--prompt", "x", "--method", "speculative", "--exit", "3"], "early exits 0..2"),
        (["--prompt", "x", "--method", "speculative", "--exit", "0", "--draft", "0"], "plain decoding"),
        (["--prompt", "x", "--method", "del", "--threshold", "nan"], "threshold"),
        (["--prompt", "x", "--threshold", "0.5"], "greedy has no threshold"),
        (["--prompt", "x", "--exit", "1"], "greedy has no exit"),
        (["--prompt", "x", "--top-k", "5"], "give a temperature above 0"),
        (["--prompt", "x", "--stop", "a\\"], "a backslash itself is"),
        (["--prompt", "x", "--stop", "\\u12"], "not an escaped string"),
        (["--prompt", "\udcff"], "no text that UTF-8 can hold"),
        (["--prompt", "x", "--trigger", "the"], "what to ask with"),
        (["--prompt", "x", "--probe", "so:"], "where to ask"),
        (["--prompt", "x", "--probe-threshold", "0.9"], "where to ask"),
        (["--prompt", "x", "--trigger", "the", "--probe", "a", "--probe-ids", "1"], "one of --probe and"),
        (["--prompt", "x", "--trigger", "Wherefore", "--probe", "a"], "no token of this tokenizer"),
        (["--prompt", "x", "--trigger-ids", "999", "--probe", "a"], "0..271"),
        (["--prompt", "x", "--trigger-ids", "1", "--probe-ids", "x"], "--probe-ids 'x': expected whole numbers"),
        (["--prompt", "x", "--trigger-ids", "1", "--probe-ids", "1", "--probe-threshold", "1"], "threshold in"),
        (["--prompt", "x", "--trigger-ids", "1", "--probe", "a", "--method", "skip"], "skip cannot"),
        (["--prompt", "x", "--temperature", "-1"], "temperature"),
        (["--prompt", "x", "--temperature", "nan"], "temperature"),
        (["--prompt", "x", "--max-tokens", "0"], "at least 1"),
        (["--prompt", "x", "--stop", ""], "stop string is empty"),
        (["--prompt", "x", "--artifact", "fp64"], "no decoder artifact"),
        (["--prompt", "x", "--method", "del", "--costs", "nowhere.json"], "nowhere.json"),
        (["--prompt-file", "nowhere.txt"], "nowhere.txt: no text to read"),
    ],
)
def test_generate_refuses(options: list[str], says: str, cli: Cli, tiny_lm: Path) -> None:
    assert says in cli("generate", tiny_lm, *options).error


def test_other_bundles_are_refused(cli: Cli, tiny: Path, tiny_lm: Path) -> None:
    assert "not a language model" in cli("generate", tiny, "--prompt", "x").error
    assert cli("run", tiny_lm, "--input", "x.npy").error


def test_simulate(cli: Cli, tiny_lm: Path, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    small = ("--prompts", 4, "--prompt-tokens", 12, "--max-tokens", 24, "--draft", 4, "--n", 2)
    saved, plot = tmp_path / "costs.json", tmp_path / "exits.png"
    found = cli("simulate", tiny_lm, "--text", text, *small, "--save-costs", saved, "--plot", plot)
    assert found.code == 0, found
    assert found.out.startswith(("use ", "leave it off", "undecided"))
    line = next(line for line in found.out.splitlines() if line.startswith("edgeexit generate "))
    assert cli(*shlex.split(line)[1:]).code == 0
    for word in (
        "perplexity",
        "break-even",
        "times plain",
        "speculative, exit",
        "prompt lookup",
        "del",
        "calm",
        "skip",
    ):
        assert word in found.out
    assert plot.read_bytes().startswith(b"\x89PNG")
    again = cli("simulate", tiny_lm, "--text", text, *small, "--costs", saved, "--json").json
    once_more = cli("simulate", tiny_lm, "--text", text, *small, "--costs", saved, "--json").json
    del again["seconds"], once_more["seconds"]
    assert again == once_more  # with the same costs the same verdict
    assert again["command"][:2] == ["edgeexit", "generate"] and again["command"][-2:] == ["--max-tokens", "24"]
    exact = [r for r in again["settings"] if r["agreement"] is None and r["method"] != "skip"]
    assert exact == sorted(exact, key=lambda r: -r["speedup"])
    assert again["speedup"] == 1 or {"method": again["setting"]["method"]}.items() <= exact[0].items()
    assert again["answers"] == 4 and len(again["exits"]) == 4
    told = cli("generate", tiny_lm, "--prompt", PROMPT, "--method", "del", "--costs", saved, "--max-tokens", 5)
    assert told.code == 0 and "measuring" not in told.err


EVERY = [
    Decoding(),
    Decoding("speculative", 1, 2, 0.3),
    Decoding("speculative", 0),
    Decoding("del", draft=3),
    Decoding("lookup", draft=2, ngram=2),
    Decoding("calm", 1, threshold=0.5, repair=True),
    Decoding("calm", threshold=0.0, confidence="margin"),
    Decoding("skip", exit=1),
]


@pytest.mark.parametrize("setting", EVERY, ids=str)
def test_a_setting_comes_back_from_its_command(setting: Decoding, cli: Cli, tiny_lm: Path) -> None:
    found = cli("generate", tiny_lm, "--prompt", PROMPT, "--max-tokens", 4, "--json", *setting_arguments(setting))
    assert found.code == 0, found
    told = Decoding(**found.json["setting"])
    assert (told, told.sure) == (replace(setting, threshold=told.threshold), setting.sure)


@pytest.mark.parametrize("kind", ["text", "lines", "ids"])
def test_the_command_of_a_verdict_runs(kind: str, cli: Cli, tiny_lm: Path, tmp_path: Path) -> None:
    """Also where a prompt is no text that a command line could show, or there is no tokenizer."""
    ids = tmp_path / "ids.npy"
    text = {"text": 'it\'s "$HOME" and `that`; ' * 30, "lines": "\n-\t\n" * 90, "ids": ""}[kind]
    (tmp_path / "t.txt").write_text(text)
    np.save(ids, np.arange(400) % 250)
    source = ids if kind == "ids" else tmp_path / "t.txt"
    options = ("--prompts", 2, "--prompt-tokens", 20, "--max-tokens", 8, "--draft", 3, "--n", 1)
    found = cli("simulate", tiny_lm, "--text", source, *options, "--artifact", "fp32")
    line = next(line for line in found.out.splitlines() if line.startswith("edgeexit generate "))
    again = cli(*shlex.split(line)[1:])
    assert again.code == 0 and "--artifact fp32" in line, line
    if kind != "ids":
        assert ("--prompt-ids" in line) == (kind == "lines")


def test_certify(cli: Cli, tiny_lm: Path, text: Path) -> None:
    small = ("--prompts", 30, "--prompt-tokens", 8, "--max-tokens", 8, "--draft", 1, "--n", 1, "--repair")
    found = cli("simulate", tiny_lm, "--text", text, *small, "--certify", "0.4@0.9")
    assert found.code == 0 and "with probability 0.9" in found.out, found
    assert "needs at least" in cli("simulate", tiny_lm, "--text", text, *small, "--certify", "0.01@0.99").err


@pytest.mark.parametrize(
    "options, says",
    [
        (["--prompts", "0"], "at least one"),
        (["--prompts", "400"], "give more text"),
        (["--prompt-tokens", "96"], "no room"),
        (["--max-tokens", "0", "--prompts", "2"], "at least one"),
        (["--certify", "often"], "ALPHA@CONFIDENCE"),
        (["--text", "nowhere.txt"], "no text to read"),
        (["--repair"], "--repair is of calm"),
        (["--text", "nowhere.npy"], "not an .npy"),
    ],
)
def test_simulate_refuses(options: list[str], says: str, cli: Cli, tiny_lm: Path, text: Path) -> None:
    found = cli("simulate", tiny_lm, "--text", text, "--n", "1", *options)
    assert found.code == 1 and says in found.err and found.err.startswith("error: ") and "Traceback" not in found.err


@pytest.mark.skipif(os.name == "nt", reason="SIGINT")
def test_ctrl_c_leaves_the_text_so_far(tiny_lm: Path) -> None:
    command = [
        sys.executable,
        "-u",
        "-m",
        "edgeexit",
        "generate",
        str(tiny_lm),
        "--prompt",
        PROMPT,
        "--max-tokens",
        "80",
    ]
    # slowed down, so that there is something to interrupt
    code = (
        "import sys, time; from edgeexit.lm.decoding import greedy; old = greedy.Plain.round\n"
        "greedy.Plain.round = lambda *a: (time.sleep(0.2), old(*a))[1]\n"
        f"sys.argv = {['edgeexit', *command[4:]]!r}\nfrom edgeexit.cli import main; main()"
    )
    running = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    first = running.stdout.read(1)
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130 and first + out
    assert "ended by interrupted" in err and "Traceback" not in err
