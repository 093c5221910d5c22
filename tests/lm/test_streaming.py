"""Text that comes token by token, by every kind of tokenizer: together the pieces are the text of the whole."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="tokenizers turns text into tokens and back")

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.lm.text.characters import LETTERS
from edgeexit.lm.text.stop_strings import StopStrings
from edgeexit.lm.text.tokenizer import _CONTEXT, Pieces, Text
from lm.tokenizer_kinds import BYTES, KINDS, MARKS

codecs.register_error("each", lambda e: ("\ufffd" * (e.end - e.start), e.end))  # type: ignore[attr-defined]
MADE = {name: make() for name, make in KINDS.items()}
TEXTS: dict[str, Text] = {}
WHOLE = [
    "日本語 日本", "안녕하세요", "ภาษาไทย",
    "a👩‍👩‍👧 b", "e\u0301 é ê\u0323", "  two  spaces ", "שלום, مرحبا", "नमस्ते", "\n\ttab\n",
    "🇯🇵🏳️‍🌈", "𝔘𝔫𝔦", "a\ufffdb", "",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _files(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("tokenizers")
    for name, tokenizer in MADE.items():
        tokenizer.save(str(folder / f"{name}.json"))
        TEXTS[name] = Text(folder / f"{name}.json")


def streamed(text: Text, prompt: list[int], answer: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], int]:
    """The pieces, and how many tokens were taken."""
    pieces, parts = Pieces(text, stops, prompt), []
    for n, token in enumerate(answer, 1):
        parts.append(pieces.add(token))
        if pieces.stopped:
            assert pieces.rest() == "" and pieces.add(token) == ""
            return parts, n
    return [*parts, pieces.rest(), pieces.rest()], len(answer)


def expected(text: Text, prompt: list[int], answer: list[int]) -> str:
    before, whole = text.decode(prompt), text.decode([*prompt, *answer])
    same = next(
        (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
    )
    return whole[same:]


def ids(name: str) -> st.SearchStrategy[list[int]]:
    # two beyond the last token: models know more tokens than their tokenizers
    return st.lists(st.integers(0, MADE[name].get_vocab_size() + 1), max_size=24)


@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_pieces_are_the_whole_less_the_prompt(name: str, data: st.DataObject) -> None:
    prompt, answer = data.draw(ids(name)), data.draw(ids(name))
    assert "".join(streamed(TEXTS[name], prompt, answer)[0]) == expected(TEXTS[name], prompt, answer)


@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=12) | st.sampled_from(WHOLE), at=st.integers(0, 99))
def test_whole_texts_are_those_of_the_library(name: str, text: str, at: int) -> None:
    """Cut anywhere, also within a character: the prompt's part of it comes with the answer."""
    found = MADE[name].encode(text, add_special_tokens=False).ids
    whole = MADE[name].decode(found)
    assert TEXTS[name].decode(found) == whole
    at = at % (len(found) + 1)
    parts = "".join(streamed(TEXTS[name], found[:at], found[at:])[0])
    assert whole.endswith(parts) and whole.removesuffix(parts) == whole[: len(whole) - len(parts)]
    assert "\ufffd" not in parts or "\ufffd" in whole
    if at == 0:
        assert parts == whole


@settings(deadline=None, max_examples=300)
@given(found=ids("level"))
def test_bad_bytes_of_byte_level_tokens_are_the_librarys(found: list[int]) -> None:
    assert TEXTS["level"].decode(found) == MADE["level"].decode(found)


@settings(deadline=None, max_examples=300)
@given(data=st.lists(st.integers(0, 255), max_size=12))
def test_bad_bytes_of_byte_fallback_leave_whole_characters_alone(data: list[int]) -> None:
    """As sentencepiece replaces each bad byte; the library replaces all bytes in a row of which one is bad."""
    found = [len(MARKS) + b for b in data]
    want = bytes(data).decode(errors="each")
    assert TEXTS["fallback without strip"].decode(found) == want
    library = MADE["fallback without strip"].decode(found)
    assert library == (want if want.encode() == bytes(data) else "\ufffd" * len(data))


def byte_ids(text: bytes) -> list[int]:
    return [MADE["fallback"].token_to_id(BYTES[b]) for b in text]


@pytest.mark.parametrize(
    ("prompt", "answer", "shown"),
    [
        (b"\xe6\x97\xa5\xe6", b"\x9c\xac", "本"),  # the prompt ends within a character
        (b"\xe6\x97\xa5\xe6", b"a", "a"),  # which never ends: its U+FFFD is the prompt's
        (b"", b"\xe6\x97\xa5\xe6\x9c", "日\ufffd\ufffd"),  # the answer ends within one
        (b"", b"\xff\xe6\x97\xa5", "\ufffd日"),
        (b"\xe6", b"", ""),
        (b"\xf0\x9f\x91", b"\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7", "👩\u200d👧"),
    ],
)
def test_unfinished_characters(prompt: bytes, answer: bytes, shown: str) -> None:
    for name in ("fallback", "level"):
        tokenizer = MADE[name]
        if name == "fallback":
            before, after = byte_ids(prompt), byte_ids(answer)
        else:
            before, after = ([tokenizer.token_to_id(LETTERS[b]) for b in part] for part in (prompt, answer))
            shown = shown.replace("\ufffd\ufffd", "\ufffd")  # byte-level decoders replace a beginning at once
        assert "".join(streamed(TEXTS[name], before, after)[0]) == shown


def test_characters_are_shown_with_their_last_byte() -> None:
    parts, _ = streamed(TEXTS["fallback"], [], byte_ids("あい".encode()))
    assert parts[:6] == ["", "", "あ", "", "", "い"]


@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_stop_string_is_seen_as_soon_as_it_is_there(name: str, data: st.DataObject) -> None:
    text = TEXTS[name]
    prompt, answer = data.draw(ids(name)), data.draw(ids(name))
    whole = "".join(streamed(text, prompt, answer)[0])
    if not whole:
        return
    start = data.draw(st.integers(0, len(whole) - 1))
    stops = (whole[start : start + data.draw(st.integers(1, 6))], "never there")
    parts, taken = streamed(text, prompt, answer, stops)
    shown = "".join(parts)
    assert shown == whole[: whole.index(stops[0])]
    # what came before its last token did not hold it, unless only as bytes that might have gone on
    before = "".join(streamed(text, prompt, answer[: taken - 1])[0])
    assert stops[0] not in before or before.endswith("\ufffd") or taken == len(answer)
    for n in range(len(parts)):
        assert whole.startswith("".join(parts[:n]))


def test_the_stop_string_that_ends_first_counts() -> None:
    for cut in range(1, 6):
        stops = StopStrings(["abcd", "bc", "xbc"])
        text = "-abcde"
        assert stops.add(text[:cut]) + stops.add(text[cut:]) == "-a" and stops.stopped
    both = StopStrings(["bc", "abc"])  # with one character: the longer
    assert both.add("-abc") == "-" and both.stopped and both.rest() == ""
    again = StopStrings(["aab", "zz"])
    assert [again.add(c) for c in "aaaab"] == ["", "", "a", "a", ""] and again.stopped
    never = StopStrings(["abab"])
    assert never.add("ababa"[:3]) == "" and never.rest() == "aba" and not never.stopped


def test_a_token_costs_the_same_however_long_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in TEXTS.items():
        most = 0
        joined = text.joined

        def counted(units: list[tuple[str, ...]], joined: object = joined) -> str:
            nonlocal most
            most = max(most, len(units))
            return str(joined(units))  # type: ignore[operator]

        monkeypatch.setattr(text, "joined", counted)
        size = MADE[name].get_vocab_size()
        pieces = Pieces(text, ["no such", "日" * 500], [])
        for i in range(3000):
            pieces.add((i * 7919) % size)
        assert most <= _CONTEXT + 1 + 5


def test_long_stop_strings_are_no_work() -> None:
    stops = StopStrings(["a" * 20_000 + "b"])
    assert sum(len(stops.add("a")) for _ in range(60_000)) == 40_000
    assert stops.add("b") == "" and stops.stopped
