"""Train a small early-exit Conformer on the English prompts of Asterisk: one voice, real sentences, characters.

    apt-get download asterisk-core-sounds-en-wav && dpkg-deb -x asterisk-core-sounds-en-wav_*.deb prompts
    python train.py prompts core-sounds-en.txt --out runs/prompts

In: the unpacked package (CC BY-SA 3.0) and Asterisk's list of texts, `name: text` per line.
Out, in the folder: checkpoint.pt (--resume goes on), model.safetensors, tokens.txt, speech.json, metrics.json.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

import torch

from edgeexit.errors import DataError, EdgeExitError
from edgeexit.speech.audio import read_wav
from edgeexit.speech.features import FeatureSpec
from edgeexit.speech.spec import SpeechSpec
from edgeexit_models.speech.conformer import conformer_edge
from edgeexit_models.speech.corpus import InMemory
from edgeexit_models.speech.sentences import train_sentences
from edgeexit_models.speech.subwords import learn
from edgeexit_models.speech.train import OneCycle

FEATURES = FeatureSpec(sample_rate=8000, bins=40, low_hz=20.0, high_hz=-400.0)
LONGEST_SECONDS = 16.0
WORDS = {"*": "star", "#": "pound", **dict(zip("0123456789", (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), strict=True))}  # fmt: skip


def spoken(text: str) -> str | None:
    """The words of a prompt in small letters; None where the text says more or less than the voice.

    >>> spoken("Please press 1 (or *), now!") is None, spoken("Don't press 1, press *.")
    (True, "don't press one press star")
    """
    # remarks, lists, and numbers that can be read in many ways
    if re.search(r"[\[\](){}&/:]|note|\d\d|\d\.\d", text):
        return None
    for sign, word in WORDS.items():
        text = text.replace(sign, f" {word} ")
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split()) or None


def read(folder: Path, texts: Path) -> dict[str, InMemory]:
    """train, dev and test: a tenth of the texts each for dev and test, chosen by hash; equal texts stay together.

    Raises:
        DataError: no prompt has a text.
    """
    try:
        lines = texts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{texts}: not readable as a list of texts: {e}") from e
    known = {name.strip(): text.strip() for name, colon, text in (line.partition(":") for line in lines) if colon}
    found: dict[str, tuple[list, list]] = {part: ([], []) for part in ("train", "dev", "test")}  # type: ignore[type-arg]
    roots = sorted({p.parent for p in folder.rglob("vm-intro.wav")})
    for path in sorted(p for root in roots for p in root.rglob("*.wav")):
        name = next(path.relative_to(root).with_suffix("").as_posix() for root in roots if root in path.parents)
        text = spoken(known.get(name, ""))
        if text is None:
            continue
        samples, rate = read_wav(path)
        if rate != FEATURES.sample_rate:
            raise DataError(f"{path}: {rate} samples per second, expected {FEATURES.sample_rate}: take the wav package")
        if len(samples) <= LONGEST_SECONDS * rate:
            bucket = hashlib.sha256(text.encode()).digest()[0] % 10
            audio, said = found["dev" if bucket == 0 else "test" if bucket == 1 else "train"]
            audio.append(samples)
            said.append(text)
    if not all(said for _, said in found.values()):
        raise DataError(f"{folder}: no prompts with a text in {texts}: expected the unpacked Debian package")
    return {part: InMemory(audio, said) for part, (audio, said) in found.items()}


def run(args: argparse.Namespace) -> None:
    """Trains, measures and writes everything."""
    parts = read(args.prompts, args.texts)
    for name, corpus in parts.items():
        print(f"{name}: {len(corpus.texts)} prompts, {sum(corpus.sizes) / FEATURES.sample_rate:.0f} s")
    speech = SpeechSpec(FEATURES, learn(t for c in parts.values() for t in c.texts), blank=0)
    torch.manual_seed(args.seed)
    model = conformer_edge(len(speech.tokens), FEATURES.bins, speech=speech)
    result = train_sentences(
        model, parts["train"], {"dev": parts["dev"], "test": parts["test"]}, args.out, steps=args.steps,
        seed=args.seed, schedule=OneCycle(args.steps, args.lr), seconds=args.seconds, resume=args.resume,
        threads=args.threads, validate_every=500,
    )  # fmt: skip
    for name, row in result["parts"].items():
        for rate in ("wer", "cer"):
            print(f"{name} {rate}", *(f"{e:.4f}" for e in row[rate]), f"({row['words']} words)")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path, help="folder of the unpacked package")
    parser.add_argument("texts", type=Path, help="list of texts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=40.0, help="audio in a batch")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate of the cycle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    try:
        run(parser.parse_args())
    except EdgeExitError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
