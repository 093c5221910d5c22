"""The code recipe as a user runs it, on a few made files."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeexit_models.lm import load_lm, load_tokenizer

pytest.importorskip("tokenizers", reason="tokenizers of language models: pip install 'edgeexit[lm]'")
SCRIPT = Path(__file__).parents[3] / "models" / "recipes" / "lm-code" / "train.py"
SMALL = (
    "--vocabulary", 280, "--layers", 3, "--width", 16, "--context", 24, "--batch", 2, "--steps", 4, "--threads", 1,
)  # fmt: skip


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with prompts that fit the test's context and more files held out."""
    spec = importlib.util.spec_from_file_location("recipe_lm_code", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    for name, value in {"PROMPT": 6, "NEW": 10, "PROMPTS": 3, "DEV": 0.3, "TEST": 0.3}.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Twenty modules, and what the recipe must not read."""
    folder = tmp_path / "lib"
    (folder / "pack").mkdir(parents=True)
    for number in range(20):
        lines = [f"def function_{number}_{k}(value):\n    return value * {k} + {number}\n" for k in range(12)]
        (folder / ("pack" if number % 2 else ".") / f"module_{number}.py").write_text("\n".join(lines))
    for name in (
        "site-packages/other.py",
        "test/test_x.py",
        "pack/tests/y.py",
        "config-3.11/z.py",
        "_sysconfigdata_x.py",
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("FORBIDDEN = 1\n")
    (folder / "latin.py").write_bytes(b"name = '\xe9'\n")
    (folder / "empty.py").write_text("\n")
    return folder


def call(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Runs the script's command line."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    recipe.main()


def test_a_run_writes_a_model_its_tokenizer_and_every_number(
    recipe: ModuleType, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    call(recipe, monkeypatch, "--source", library, "--out", out, *SMALL)
    call(recipe, monkeypatch, "--source", library, "--out", out, *SMALL, "--resume")
    model, tokenizer = load_lm(out), load_tokenizer(out / "tokenizer.json")
    assert tokenizer.get_vocab_size() == model.config.vocab_size == 280
    assert model.config.eos_token_id == 0
    metrics, split = json.loads((out / "metrics.json").read_text()), json.loads((out / "split.json").read_text())
    assert metrics["steps_done"] == 4 and metrics["tokens_seen"] == 4 * 2 * 24
    assert {part: row["files"] for part, row in metrics["text"].items()} == {
        part: sum(1 for row in split.values() if row["part"] == part) for part in ("train", "dev", "test")
    }
    assert sum(row["files"] for row in metrics["text"].values()) == 20
    for part in ("dev", "test"):
        assert [e["layer"] for e in metrics["exits"][part]] == [1, 2, 3]
        # the last exit wrote this text token by token, so its first guess in one pass is the text
        assert metrics["own_text"][part][-1]["accuracy"] == 1.0
        assert metrics["own_text"][part][-1]["tokens"] == 3 * 10


def test_parts_follow_from_names_and_foreign_files_are_left_out(recipe: ModuleType, library: Path) -> None:
    found = recipe.sources(library)
    assert len(found) == 20 and {f.part for f in found} == {"train", "dev", "test"}
    assert not any("FORBIDDEN" in f.text for f in found)
    (library / "another.py").write_text("x = 1\n")
    again = {f.name: f.part for f in recipe.sources(library)}
    assert all(again[f.name] == f.part for f in found)


def test_a_folder_without_sources_is_one_line(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="no Python sources"):
        call(recipe, monkeypatch, "--source", tmp_path, "--out", tmp_path / "out", *SMALL)
