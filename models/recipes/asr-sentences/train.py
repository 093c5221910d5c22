"""Train a small early-exit Conformer on real sentences that Debian's packages hold; tokens are characters.

    apt-get download asterisk-core-sounds-en-wav && dpkg-deb -x asterisk-core-sounds-en-wav_*.deb prompts
    python train.py asterisk prompts core-sounds-en.txt --out runs/prompts

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python train.py tuxpaint stamps --languages fr es ca ro --out runs/stamps

Output, in the folder: checkpoint.pt (--resume continues), model.safetensors, tokens.txt, speech.json, metrics.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit_models.speech.conformer import conformer_edge
from edgeexit_models.speech.corpus import InMemory
from edgeexit_models.speech.subwords import learn
from edgeexit_models.speech.trainer import OneCycle
from recipes.common import add_learning_rate, add_training_options, argument_parser, run_command
from recipes.debian import asterisk, divided, tux_paint
from recipes.sentences import train_sentences

FEATURES = {
    "asterisk": FeatureSpec(sample_rate=8000, bins=40, low_hz=20.0, high_hz=-400.0),
    "tuxpaint": FeatureSpec(sample_rate=16000, bins=40, low_hz=20.0, high_hz=-400.0),
}


def read(args: argparse.Namespace) -> dict[str, InMemory]:
    """The recordings in three parts."""
    rate = FEATURES[args.source].sample_rate
    if args.source == "asterisk":
        return divided(asterisk(args.folder, args.texts, rate), str(args.folder))
    return divided(tux_paint(args.folder, args.languages, rate), str(args.folder))


def run(args: argparse.Namespace) -> None:
    """Trains, measures and writes everything."""
    parts, features = read(args), FEATURES[args.source]
    for name, corpus in parts.items():
        print(f"{name}: {len(corpus.texts)} recordings, {sum(corpus.sizes) / features.sample_rate:.0f} s", flush=True)
    speech = SpeechSpec(features, learn(t for c in parts.values() for t in c.texts), blank=0)
    torch.manual_seed(args.seed)
    model = conformer_edge(len(speech.tokens), features.bins, speech=speech)
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
    parser = argument_parser(__doc__)
    sources = parser.add_subparsers(dest="source", required=True)
    prompts = sources.add_parser("asterisk", help="English prompts, one voice, 8 kHz")
    stamps = sources.add_parser("tuxpaint", help="short sentences in several languages, 16 kHz")
    for command in (prompts, stamps):
        command.add_argument("folder", type=Path, help="the unpacked package")
        add_training_options(command, threads=1)
        add_learning_rate(command, 2e-3)
        command.add_argument("--steps", type=int, default=3000)
        command.add_argument("--seconds", type=float, default=40.0, help="audio per batch, about")
    prompts.add_argument("texts", type=Path, help="Asterisk's list of texts")
    stamps.add_argument("--languages", nargs="+", default=["fr"], help="codes in the file names [default: fr]")
    run_command(run, parser.parse_args())


if __name__ == "__main__":
    main()
