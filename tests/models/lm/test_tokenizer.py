"""Byte-level BPE: any text comes back, and the same texts give the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import DataError
from edgeexit_models.lm import encode_all, load_tokenizer, train_bpe

pytest.importorskip("tokenizers", reason="tokenizers of language models: pip install 'edgeexit[lm]'")
TEXTS = ["def f(x):\n    return x + 1\n" * 3, "for value in values:\n    print(value)\n" * 3]


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()  # lone surrogates are no text
    tokenizer = _trained()
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_same_texts_give_the_same_file_and_it_is_read_again(tmp_path: Path) -> None:
    for name in "ab":
        train_bpe(TEXTS, 280).save(str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = load_tokenizer(tmp_path / "a")
    assert again.encode(TEXTS[0]).ids == _trained().encode(TEXTS[0]).ids
    assert again.token_to_id("<|endoftext|>") == 0 and again.get_vocab_size() == 280


def test_documents_stand_in_one_row_with_their_ends() -> None:
    tokenizer = _trained()
    row = encode_all(tokenizer, TEXTS)
    parts = [tokenizer.encode(t).ids for t in TEXTS]
    assert row.dtype == np.uint16
    assert row.tolist() == [*parts[0], 0, *parts[1], 0]
    assert encode_all(tokenizer, []).shape == (0,)


def test_bad_vocabularies_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 257"):
        train_bpe(TEXTS, 256)
    with pytest.raises(DataError, match="tokens, not 5000"):
        train_bpe(TEXTS, 5000)
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        load_tokenizer(tmp_path / "bad.json")


_made: list = []


def _trained():  # type: ignore[no-untyped-def]
    if not _made:
        _made.append(train_bpe(TEXTS, 280))
    return _made[0]
