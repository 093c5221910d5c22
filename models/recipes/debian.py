"""Speech corpora from Debian packages: the prompts of Asterisk and the stamps of Tux Paint."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeexit.errors import BackendMissing, DataError
from edgeexit.speech.resample import resample
from edgeexit.speech.wav import read_wav
from edgeexit_models.speech.augment import Samples
from edgeexit_models.speech.corpus import InMemory
from edgeexit_models.speech.digits import WORDS

LONGEST_SECONDS = 16.0
PARTS = ("train", "dev", "test")
SPOKEN = {"*": "star", "#": "pound", **dict(zip("0123456789", WORDS, strict=True))}

Recording = tuple[Samples, str]
"""`(n,)` float32 samples at the requested rate, and the words in small letters."""


def divided(recordings: Iterable[Recording], source: str) -> dict[str, InMemory]:
    """train, dev and test: a tenth of the texts each for dev and test, chosen by hash; equal texts stay together.

    Raises:
        DataError: a part is empty; `source` is named.
    """
    corpora: dict[str, tuple[list[Samples], list[str]]] = {part: ([], []) for part in PARTS}
    for samples, text in recordings:
        bucket = hashlib.sha256(text.encode()).digest()[0] % 10
        audio, texts = corpora["dev" if bucket == 0 else "test" if bucket == 1 else "train"]
        audio.append(samples)
        texts.append(text)
    if not all(texts for _, texts in corpora.values()):
        counts = ", ".join(f"{part} {len(texts)}" for part, (_, texts) in corpora.items())
        raise DataError(f"{source}: too few recordings with a text to divide ({counts}): expected the unpacked package")
    return {part: InMemory(audio, texts) for part, (audio, texts) in corpora.items()}


def asterisk(folder: Path, texts: Path, rate: int) -> Iterator[Recording]:
    """English prompts of one voice, 8 kHz: the package asterisk-core-sounds-en-wav (CC BY-SA 3.0).

    Args:
        folder: the unpacked package.
        texts: Asterisk's list core-sounds-en.txt, `name: text` per line.
        rate: samples per second of the output.

    Raises:
        DataError: the list or a recording is not readable, or has another rate.
    """
    try:
        lines = texts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{texts}: not readable as a list of texts: {e}") from e
    known = {name.strip(): text.strip() for name, colon, text in (line.partition(":") for line in lines) if colon}
    roots = sorted({p.parent for p in folder.rglob("vm-intro.wav")})
    for path in sorted(p for root in roots for p in root.rglob("*.wav")):
        name = next(path.relative_to(root).with_suffix("").as_posix() for root in roots if root in path.parents)
        text = prompt_words(known.get(name, ""))
        if text is None:
            continue
        samples, file_rate = read_wav(path)
        if file_rate != rate:
            raise DataError(f"{path}: {file_rate} samples per second, expected {rate}: take the wav package")
        if len(samples) <= LONGEST_SECONDS * rate:
            yield samples, text


def prompt_words(text: str) -> str | None:
    """The words of an English prompt in small letters; None where text and voice may differ.

    >>> prompt_words("Please press 1 (or *), now!") is None, prompt_words("Don't press 1, press *.")
    (True, "don't press one press star")
    """
    # remarks, lists, and numbers that can be read in many ways
    if re.search(r"[\[\](){}&/:]|note|\d\d|\d\.\d", text):
        return None
    for sign, word in SPOKEN.items():
        text = text.replace(sign, f" {word} ")
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split()) or None


def tux_paint(folder: Path, languages: Iterable[str], rate: int) -> Iterator[Recording]:
    """Descriptions of stamps by several voices in many languages: the package tuxpaint-stamps-default (GPL-2).

    Args:
        folder: the unpacked package: `NAME_desc_LANGUAGE.ogg` beside `NAME.txt` with lines `LANGUAGE.utf8=text`;
            English is `NAME_desc.ogg` and the text's first line.
        languages: as the files call them, "fr" for example, or "en".
        rate: samples per second of the output.

    Raises:
        BackendMissing: soundfile is not installed.
        DataError: no recording in one of the languages, or one that is not readable.
    """
    for language in languages:
        ending = "_desc.ogg" if language == "en" else f"_desc_{language}.ogg"
        paths = sorted(folder.rglob(f"*{ending}"))
        if not paths:
            there = sorted({p.stem.rpartition("_desc_")[2] for p in folder.rglob("*_desc_*.ogg")})
            raise DataError(f"{folder}: no recordings *{ending}; languages there: {there or 'none'}")
        for path in paths:
            text = _stamp_text(path.with_name(path.name.removesuffix(ending) + ".txt"), language)
            samples = None if text is None else _decoded(path, rate)
            if text is not None and samples is not None and len(samples) <= LONGEST_SECONDS * rate:
                yield samples, text


def stamp_words(text: str) -> str | None:
    """The words of a description in small letters, accents composed; None where digits or brackets make them ambiguous.

    >>> stamp_words("L’étoile de mer."), stamp_words("Une pièce de 5 cents")
    ("l'étoile de mer", None)
    """
    text = unicodedata.normalize("NFC", text).replace("\u2019", "'").lower()
    if re.search(r"[\d()\[\]{}&/$%=+*#]", text):
        return None
    return " ".join("".join(c if c.isalpha() or c == "'" else " " for c in text).split()) or None


def _stamp_text(path: Path, language: str) -> str | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None  # a sound without a text
    if language == "en":
        return stamp_words(lines[0]) if lines else None
    return next(
        (stamp_words(t) for name, _, t in (x.partition("=") for x in lines) if name == f"{language}.utf8"), None
    )


def _decoded(path: Path, rate: int) -> Samples | None:
    try:
        import soundfile
    except ImportError as e:
        raise BackendMissing("reading .ogg needs soundfile: pip install soundfile") from e
    try:
        samples, file_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as e:
        raise DataError(f"{path}: not readable as sound: {e}") from e
    return resample(samples.mean(axis=1), file_rate, rate) if len(samples) else None
