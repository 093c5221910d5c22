"""Text that comes piece by piece: whole characters only, and nothing past a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers", reason="tokenizers turns text into tokens and back")

from edgeexit.errors import BundleError, DataError
from edgeexit.lm.generate import Answer
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Sampler
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import Pieces, Text, encoded, text_of


@pytest.fixture(scope="module")
def model(tiny_lm: Path) -> LanguageModel:
    return load_lm(tiny_lm)


@pytest.fixture(scope="module")
def text(model: LanguageModel) -> Text:
    return text_of(model)


def read(text: Text, ids: Sequence[int], stops: Sequence[str] = ()) -> tuple[list[str], bool]:
    pieces = Pieces(text, stops, [])
    found = []
    for token in ids:
        found.append(pieces.add(token))
        if pieces.stopped:
            break
    return [*found, pieces.rest()], pieces.stopped


@pytest.mark.parametrize(
    "whole", ["the License", "naïve café, 5 € – déjà vu", "日本語 🙂🙃 ok", "\ttabs\n\nand  spaces "]
)
def test_pieces_are_the_whole(whole: str, text: Text) -> None:
    ids = text.encode(whole)
    parts, _ = read(text, ids)
    assert "".join(parts) == whole == text.decode(ids)
    assert not any("\ufffd" in part for part in parts)


@pytest.mark.parametrize(
    "stops, want",
    [(["lic"], "the "), (["zzz"], None), (["hall", "copy"], "the license s"), (["the"], ""), (["y."], "X")],
)
def test_stop_strings_end_before_themselves(stops: list[str], want: str | None, text: Text) -> None:
    whole = "the license shall be a copy."
    parts, stopped = read(text, text.encode(whole), stops)
    want = whole[:-2] if want == "X" else want
    assert "".join(parts) == (whole if want is None else want)
    assert stopped == (want is not None)


def test_no_piece_shows_the_beginning_of_a_stop_string(text: Text) -> None:
    ids = text.encode("aab aab aabc")
    pieces = Pieces(text, ["aabc"], [])
    shown = ""
    for token in ids:
        shown += pieces.add(token)
        assert "aab aab ".startswith(shown)
    assert shown == "aab aab " and pieces.stopped and pieces.rest() == ""


def test_an_endless_bad_byte_is_shown_in_the_end(text: Text) -> None:
    bad = text.encode("é")[:1]
    parts, _ = read(text, bad * 30)
    assert "\ufffd" in "".join(parts)


@pytest.mark.parametrize("setting", [Decoding(), Decoding("speculative", 1, 8), Decoding("lookup", draft=8)], ids=str)
def test_every_way_stops_at_the_same_token(setting: Decoding, model: LanguageModel, text: Text) -> None:
    prompt = encoded(model, text, "the License ")
    full = Answer(model, prompt, max_tokens=60, text=text).run()
    assert full.text == text.decode(full.ids)
    stop = full.text[10:13]
    found = Answer(model, prompt, setting, max_tokens=60, text=text, stops=[stop]).run()
    assert found.reason == "stop" and found.text == full.text[: full.text.index(stop)]
    assert found.ids == full.ids[: len(found.ids)] and stop in text.decode(found.ids)
    pieces = list(Answer(model, prompt, setting, max_tokens=60, text=text))
    assert "".join(p.text for p in pieces) == full.text
    assert tuple(i for p in pieces for i in p.ids) == full.ids


def test_the_session_after_a_stop_is_at_the_stop(model: LanguageModel, text: Text) -> None:
    prompt = encoded(model, text, "the License ")
    full = Answer(model, prompt, max_tokens=40, text=text).run()
    answer = Answer(
        model, prompt, Decoding("lookup", draft=8, ngram=1), max_tokens=40, text=text, stops=[full.text[8:10]]
    )
    result = answer.run()
    assert answer.session.ids == [*prompt, *result.ids]
    assert answer.session.done <= len(answer.session.ids)


def test_the_front_door(tiny_lm: Path, model: LanguageModel, text: Text) -> None:
    from edgeexit import lm

    for name in lm.__all__:
        assert getattr(lm, name).__name__ == name
    assert {*lm.__all__} <= {*dir(lm)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lm.nothing
    loaded = lm.load_lm(tiny_lm)
    found = lm.answer(loaded, "the License ", lm.Decoding("lookup"), max_tokens=12).run()
    assert found.ids == Answer(model, encoded(model, text, "the License "), max_tokens=12).run().ids and found.text
    assert lm.answer(loaded, [5, 9], max_tokens=3).run().text is None


def test_drawn_text_is_whole(model: LanguageModel, text: Text) -> None:
    found = Answer(model, [5], max_tokens=90, text=text, chooser=Sampler(1.5, seed=2)).run()
    assert found.text is not None and found.text.replace("\ufffd", "") in text.decode(found.ids)


def test_refusals(model: LanguageModel, text: Text, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stop string is empty"):
        Pieces(text, [""], [])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"not a tokenizer\.json"):
        Text(tmp_path / "tokenizer.json")
    bare = LanguageModel(model.spec, model.parts, name="bare")
    with pytest.raises(DataError, match="bare has no tokenizer"):
        text_of(bare)
