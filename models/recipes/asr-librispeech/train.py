"""The early-exit Conformer of Wright et al. (2023) on LibriSpeech, read through Hugging Face `datasets`.

    pip install datasets soundfile
    python train.py --out runs/librispeech --train train.clean.100 --device cuda

Input: `openslr/librispeech_asr` (CC BY 4.0, downloaded by `datasets` when first used), or a copy that
`datasets.save_to_disk` wrote (--local), with columns `audio` and `text`.
Output, in the folder: checkpoint.pt (--resume continues), model.safetensors, tokens.txt, speech.json, metrics.json.

As in the paper: 12 layers of width 256, exits after every second, the plain sum of their CTC losses, AdamW with
Noam's schedule (warm-up one epoch), 256 byte-pair tokens. Other than there: log-mel features with 16 kHz, 80 bins
(sherpa-onnx's defaults), rotary positions, SpecAugment, no `<s>` and `</s>` among the labels, greedy decoding and
no lexicon behind it; so word error rates cannot be compared directly with the paper's.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import BackendMissing, DataError
from edgeexit.speech.resample import resample
from edgeexit_models.speech.augment import Samples
from edgeexit_models.speech.conformer import EarlyExitConformer, conformer_edge, conformer_paper
from edgeexit_models.speech.splitformer import splitformer_paper
from edgeexit_models.speech.subwords import learn
from edgeexit_models.speech.trainer import Noam
from recipes.common import add_training_options, argument_parser, run_command
from recipes.sentences import train_sentences

NAME = "openslr/librispeech_asr"
FEATURES = FeatureSpec(sample_rate=16000, bins=80, low_hz=20.0, high_hz=-400.0)
BATCH_HOURS = 0.05
"""About the paper's: an update sees a quarter of 64 utterances, some 200 s."""


class Recordings:
    """Rows of `datasets` as a `Corpus`: audio is decoded when a batch takes it."""

    def __init__(self, rows: Any) -> None:
        missing = {"audio", "text"} - set(rows.column_names)
        if missing:
            raise DataError(f"the data set has columns {rows.column_names}: {', '.join(sorted(missing))} missing")
        self.rows = rows
        self.texts: Sequence[str] = [str(text).lower() for text in rows["text"]]
        self.sizes: Sequence[int] = [len(text) for text in self.texts]

    def samples(self, index: int) -> Samples:
        """One recording at the rate of the features.

        Raises:
            DataError: no bytes or path in the row, several channels, or a file that cannot be read.
        """
        import soundfile

        audio = self.rows[index]["audio"]
        source = io.BytesIO(audio["bytes"]) if audio.get("bytes") else audio.get("path")
        if source is None:
            raise DataError(f"recording {index} has neither bytes nor a path")
        try:
            samples, rate = soundfile.read(source, dtype="float32")
        except (OSError, RuntimeError) as e:
            raise DataError(f"recording {index} ({audio.get('path')}): cannot be read: {e}") from e
        if samples.ndim != 1:
            raise DataError(f"recording {index} has {samples.shape[1]} channels, expected one")
        return resample(samples, int(rate), FEATURES.sample_rate) if rate != FEATURES.sample_rate else samples


def load(split: str, local: Path | None) -> Recordings:
    """One split, undecoded.

    Raises:
        BackendMissing: datasets or soundfile is not installed.
        DataError: not there, and not to be downloaded.
    """
    try:
        import datasets
        import soundfile  # noqa: F401
    except ImportError as e:
        raise BackendMissing("this recipe needs datasets and soundfile: pip install datasets soundfile") from e
    try:
        if local is not None:
            rows = datasets.load_from_disk(str(local))[split]
        else:
            rows = datasets.load_dataset(NAME, "all", split=split)
    except Exception as e:  # the library's own errors have no common base
        where = f"{local}: " if local else f"{NAME}: "
        reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
        raise DataError(
            f"{where}split {split!r} cannot be read ({reason}): without a network, give --local, a folder that "
            "datasets.save_to_disk wrote"
        ) from e
    return Recordings(rows.cast_column("audio", datasets.Audio(decode=False)))


def build(kind: str, speech: SpeechSpec) -> EarlyExitConformer:
    """The paper's Conformer, Splitformer, or the small one for streams."""
    if kind == "edge":
        return conformer_edge(len(speech.tokens), speech.features.bins, speech=speech)
    model = (conformer_paper if kind == "paper" else splitformer_paper)(len(speech.tokens), speech.features.bins)
    model.speech_spec = speech
    return model


def run(args: argparse.Namespace) -> None:
    """Trains, measures and writes everything."""
    train = load(args.train, args.local)
    parts = {split: load(split, args.local) for split in args.parts}
    speech = SpeechSpec(FEATURES, learn(train.texts, args.tokens), blank=0)
    torch.manual_seed(args.seed)
    model = build(args.model, speech).to(args.device)
    epoch = max(round(len(train.texts) * args.mean_seconds / (BATCH_HOURS * 3600)), 1)
    result = train_sentences(
        model, train, parts, args.out, steps=args.steps or round(args.epochs * epoch), seed=args.seed,
        schedule=Noam(model.config.width, args.warm_up or epoch), seconds=args.batch_seconds or BATCH_HOURS * 3600,
        resume=args.resume, threads=args.threads, validate_every=epoch, report_every=args.report_every,
    )  # fmt: skip
    for name, row in result["parts"].items():
        print(f"{name} WER", *(f"{e:.4f}" for e in row["wer"]), f"({row['words']} words)")


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    add_training_options(parser)
    parser.add_argument("--train", default="train.clean.100", help="split to train on")
    parser.add_argument("--parts", nargs="*", default=["validation.clean", "test.clean", "test.other"])
    parser.add_argument("--local", type=Path, help="folder that datasets.save_to_disk wrote")
    parser.add_argument("--model", choices=("paper", "splitformer", "edge"), default="paper")
    parser.add_argument("--tokens", type=int, default=256, help="blank, characters and byte-pair pieces")
    parser.add_argument("--epochs", type=float, default=70)
    parser.add_argument("--steps", type=int, help="instead of epochs")
    parser.add_argument("--warm-up", type=int, help="steps [default: one epoch]")
    parser.add_argument("--batch-seconds", type=float, help="audio per batch [default: 180]")
    parser.add_argument(
        "--mean-seconds", type=float, default=12.3, help="mean length of a recording, to compute steps per epoch"
    )
    parser.add_argument("--report-every", type=int, default=100, help="steps")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    run_command(run, parser.parse_args())


if __name__ == "__main__":
    main()
