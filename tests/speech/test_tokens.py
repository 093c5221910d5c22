"""tokens.txt: read, written, spelled; damaged files say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import DataError
from edgeexit.speech.tokens import Tokens

SYMBOLS = ("<s>", "▁he", "l", "<blk>", "lo", " ", "</s>", "é")


def test_round_trip(tmp_path: Path) -> None:
    tokens = Tokens.named(SYMBOLS)
    assert (tokens.blank, tokens.drop) == (3, (0, 6))
    path = tmp_path / "tokens.txt"
    path.write_text(tokens.to_text(), encoding="utf-8")
    assert "\n5\n" in path.read_text(encoding="utf-8")  # the space stands as its number alone
    assert Tokens.read(path) == tokens


def test_spelling() -> None:
    tokens = Tokens.named(SYMBOLS)
    assert tokens.text([0, 1, 2, 4, 5, 2, 7, 1, 2, 4, 6, 3]) == "hello lé hello"
    assert tokens.text([]) == ""


def test_of_a_bundle() -> None:
    spec = SpeechSpec(FeatureSpec(8000, 40), ("▁a", "<nothing>", "<end>"), 1, (2,))
    assert Tokens.of(spec).text([0, 2, 1, 0]) == "a a"


@pytest.mark.parametrize("name", ["<blk>", "<eps>", "<blank>"])
def test_names_of_the_blank(name: str) -> None:
    assert Tokens.named(["a", "b", name]).blank == 2


def test_which_blank_counts() -> None:
    assert Tokens.named(["<blank>", "<eps>", "<blk>"]).blank == 2


def test_lines_in_any_order_and_windows_endings(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_bytes("\ufeffb 2\r\n<blk> 0\r\n\r\n  a\t1\r\n".encode())
    assert Tokens.read(path).symbols == ("<blk>", "a", "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 tokens with classes up to -1"),
        (b"a 0\nb 1\n", "no blank among 2 symbols"),
        (b"<blk> 0\na 2\n", "every class from 0 once"),
        (b"<blk> 0\na 0\n", "line 2: class 0 stands twice"),
        (b"<blk> 0\nnothing\n", "line 2: expected a symbol and its class"),
        (b"<blk> 0\na -1\n", "line 2: expected"),
        (b"<blk> 0\na b 1\n", "line 2: expected"),
        (b"<blk> 0\n" + b"a" * 200 + b" 1\n", "line 2: expected"),
        (b"<blk> 0\n\xff 1\n", "expected UTF-8"),
        (b"<blk> 0\na 999999999\n", "every class"),
    ],
)
def test_damaged(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tokens.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        Tokens.read(path)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            Tokens.read(path)


def test_what_the_form_cannot_hold() -> None:
    with pytest.raises(DataError, match="white space"):
        Tokens(("<blk>", "a b"), 0).to_text()
