"""Units: token strings regrouped into whole characters, so that streamed text never shows half of one.

Tokenizers write a character that is no token of its own as bytes: as tokens ``<0xE6>`` (byte fallback of Llama 2 and
Gemma) or as letters that each stand for a byte (byte-level BPE of GPT-2 and Llama 3). Either kind may cut a character
anywhere. A unit is one or several token strings that a decoder can read without the bytes before or after them.
"""

from __future__ import annotations

import codecs
import re

REPLACEMENT = "\ufffd"
"""Replaces bytes that are not UTF-8."""
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = (b for b in range(256) if b not in _PRINTABLE)
LETTERS = {b: chr(b) for b in _PRINTABLE} | {b: chr(256 + i) for i, b in enumerate(_OTHERS)}
"""Byte -> its letter in byte-level BPE."""
_BYTES = {letter: b for b, letter in LETTERS.items()}
Unit = tuple[str, ...]


class Units:
    """Regroups token strings into units; holds back the bytes of an unfinished character, three at most."""

    def __init__(self, fallback: bool, level: bool) -> None:
        """Nothing yet.

        Args:
            fallback: tokens such as ``<0xE6>`` are bytes.
            level: letters of a token are bytes.
        """
        self._fallback, self._level = fallback, level
        self._bytes = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: str) -> list[Unit]:
        """The units that are complete now."""
        if self._fallback and (match := _BYTE.fullmatch(token)):
            self._bytes += bytes.fromhex(match[1])
            return self._characters()
        broken: list[Unit] = [(REPLACEMENT,)] * len(self._bytes)
        self._bytes = b""
        return broken + (self._letters(token) if self._level else [(token,)])

    def rest(self) -> list[Unit]:
        """Units that stand for the unfinished character if nothing follows; what is held back stays so."""
        left: list[Unit] = [(REPLACEMENT,)] * len(self._bytes)
        pending = self._decoder.getstate()[0]
        return left + ([(_spelled(REPLACEMENT),)] if pending else [])

    def _characters(self) -> list[Unit]:
        """Of byte tokens: each bad byte is replaced alone, as sentencepiece does."""
        units: list[Unit] = []
        while self._bytes:
            try:
                self._bytes.decode()
            except UnicodeDecodeError as e:
                if e.reason == "unexpected end of data":
                    break
                units += [(REPLACEMENT,)] * e.end  # the first bytes are always those that are bad
                self._bytes = self._bytes[e.end :]
                continue
            units.append(tuple(f"<0x{b:02X}>" for b in self._bytes))
            self._bytes = b""
        return units

    def _letters(self, token: str) -> list[Unit]:
        """Of byte-level tokens: bad bytes are replaced as `bytes.decode` does."""
        known = [_BYTES.get(letter) for letter in token]
        raw = None in known  # an added token in plain letters
        data = token.encode("utf-8", "replace") if raw else bytes(b for b in known if b is not None)
        text = self._decoder.decode(data)
        if raw:
            before = text[: len(text) - len(token)]
            return [*([(_spelled(before),)] if before else []), (token,)]
        return [(_spelled(text),)] if text else []


def _spelled(text: str) -> str:
    """A text in letters that stand for its bytes."""
    return "".join(LETTERS[b] for b in text.encode())
