"""The documentation's promises: README's code runs and prints what it shows, links and names resolve."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    p for p in ROOT.rglob("*.md") if not {".venv", "demo-out", "node_modules"} & {*p.relative_to(ROOT).parts}
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"\b(edgeexit(?:_exporters|_runtimes|_models)?(?:\.[A-Za-z_]\w*)+)")
PATH = re.compile(
    r"(?<![\w./-])((?:edgeexit|exporters|runtimes|models|tests|scripts|benchmarks|docs|examples)/[\w./-]*\w)"
)
BENCHMARK = re.compile(r"python -m (benchmarks\.\w+)")
FILE_ENDS = {"edgeexit", "service", "json", "npz", "whl"}
"""Last parts of names that are files."""
GROUPS = {
    f"edgeexit.{g}"
    for g in ("scores", "policies", "policy_families", "backends", "layouts", "layouts.onnx", "layouts.tflite", "tasks")
}
"""Entry-point groups."""


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_readme_code_runs_and_prints_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    shown = re.search(r"```text\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert shown is not None
    answers = [[line.split(", score")[0] for line in text.splitlines()] for text in (done.stdout, shown[1])]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    text = _without_code(page.read_text(encoding="utf-8"))
    broken = []
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and anchor not in _anchors(place)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_dotted_names_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("names as they were")
    names = {n for n in NAME.findall(page.read_text(encoding="utf-8")) if n.rsplit(".", 1)[1] not in FILE_ENDS}
    assert not sorted(n for n in names - GROUPS if not _exists(n))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_paths_in_the_repository_exist(page: Path) -> None:
    if page.name in {"CHANGELOG.md", "cli.md"}:
        pytest.skip("paths as they were, and examples of the commands' help")
    text = page.read_text(encoding="utf-8")
    paths = {*PATH.findall(text), *(f"{n.replace('.', '/')}.py" for n in BENCHMARK.findall(text))}
    assert not sorted(p for p in paths if not (ROOT / p).exists() and not (page.parent / p).exists())


def test_every_page_is_reachable() -> None:
    """From README.md, by links."""
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        seen.add(page)
        for target in LINK.findall(_without_code(page.read_text(encoding="utf-8"))):
            place = (page.parent / target.partition("#")[0]).resolve()
            if place.suffix == ".md" and place.is_file() and place not in seen:
                left.append(place)
    pages = {p for p in PAGES if p.relative_to(ROOT).parts[0] in {"docs", "examples", "runtimes"}}
    assert not sorted(p.relative_to(ROOT).as_posix() for p in pages - seen)


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def _anchors(page: Path) -> set[str]:
    """The headings' names, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


def _exists(name: str) -> bool:
    """Whether a module, an attribute, or an attribute of an attribute has this dotted name."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            there: object = importlib.import_module(".".join(parts[:n]))
        except ImportError as e:
            if not (isinstance(e, ModuleNotFoundError) and name.startswith(e.name or "?")):
                return n > 1  # it is there, and needs a library that is not
            continue
        for part in parts[n:]:
            if not hasattr(there, part):
                return False
            there = getattr(there, part)
        return True
    return False
