"""Train the early-exit Conformer on connected spoken digits, or write its test set.

    python train.py train FSDD --out runs/digits            joint training of all exits
    python train.py train FSDD --out runs/alone-2 --alone 2 a network of two layers with one exit
    python train.py data FSDD --part test --out test.npz    the fixed utterances: samples and texts
    python train.py wav FSDD --out wavs                     the first one as .wav with .txt

FSDD is a folder with `audio.flac` and `meta.npz` (see `recipes.spoken_digits`).
`train` writes checkpoint.pt (every two minutes; --resume continues), asr-digits.safetensors and metrics.json.
"""

from __future__ import annotations

import argparse
import wave
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeexit.speech.features import log_mel
from edgeexit_models.speech.augment import random_channel, random_tract, spec_augment
from edgeexit_models.speech.batch import Batch, Features, make_batch
from edgeexit_models.speech.conformer import EarlyExitConformer, single_exit
from edgeexit_models.speech.digits import SPEECH, asr_digits
from edgeexit_models.speech.measure import error_rates
from edgeexit_models.speech.trainer import OneCycle, Progress, feature_statistics, fit_ctc
from recipes import common
from recipes import spoken_digits as digits
from recipes.spoken_digits import CLEAN, HARD, Utterance, fixed_set

DEV_WHILE_TRAINING = 100


class MixedBatches:
    """Step number -> batch, mixed anew for every step."""

    def __init__(self, voices: dict[str, digits.Voice], crowd: Path | None, seed: int) -> None:
        self.voices = digits.training_voices(voices, None if crowd is None else digits.load_crowd(crowd))
        self.seed = seed
        mean, self.deviation = feature_statistics(
            log_mel(u.samples, SPEECH.features)
            for step in range(30)
            for u in digits.training_utterances(self.voices, seed, step)
        )
        self.mean = mean
        self.fill: Features = mean.numpy()

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 3, step])
        said = digits.training_utterances(self.voices, self.seed, step)
        return make_batch(
            [self.changed(log_mel(u.samples, SPEECH.features), rng) for u in said], [u.tokens for u in said]
        )

    def changed(self, features: Features, rng: np.random.Generator) -> Features:
        """With another vocal tract and microphone, and with masks."""
        features = random_channel(random_tract(features, rng, SPEECH.features), rng)
        return spec_augment(features, rng, self.fill)


def rates(model: torch.nn.Module, utterances: Sequence[Utterance]) -> tuple[float, ...]:
    """Digit error rate of every exit."""
    features = [log_mel(u.samples, SPEECH.features) for u in utterances]
    return error_rates(model, features, [u.tokens for u in utterances])


def report(progress: Progress) -> None:
    """One line per report."""
    errors = "  dev " + " ".join(f"{e:.4f}" for e in progress.errors) if progress.errors else ""
    common.log(f"step {progress.step:5d}  loss {progress.loss:.4f}  cpu {progress.cpu_seconds:.0f} s{errors}")


def train(args: argparse.Namespace) -> None:
    """Trains, measures and writes everything."""
    torch.manual_seed(args.seed)
    model: EarlyExitConformer = asr_digits() if args.alone is None else single_exit(asr_digits(), args.alone)
    voices = digits.load(args.data)
    batches = MixedBatches(voices, args.crowd, args.seed)
    model.set_normalisation(batches.mean, batches.deviation)
    dev = fixed_set(voices, "dev", DEV_WHILE_TRAINING)
    history = fit_ctc(
        model, batches, steps=args.steps, seed=args.seed, schedule=OneCycle(args.steps, args.lr),
        checkpoint=args.out / "checkpoint.pt", resume=args.resume, progress=report,
        validate=lambda m: rates(m, dev), validate_every=500, threads=args.threads,
    )  # fmt: skip
    common.write_weights(args.out / "asr-digits.safetensors", model)
    result = metrics(model, voices, args, history)
    common.write_json(args.out / "metrics.json", result)
    for name, row in result["digit_error_rate"].items():
        print(f"{name:11s}", *(f"{share:.4f}" for share in row["exits"]), f"({row['digits']} digits)")


def metrics(
    model: EarlyExitConformer, voices: dict[str, digits.Voice], args: argparse.Namespace, history: Sequence[Progress]
) -> dict[str, Any]:
    """Error rates, settings and all reports; nothing was chosen on the test speaker."""
    errors = {}
    for part in ("dev", "test"):
        for name, mixture in (("hard", HARD), ("clean", CLEAN)):
            said = fixed_set(voices, part, args.evaluate, m=mixture)
            errors[f"{part} {name}"] = {"exits": rates(model, said), "digits": sum(len(u.digits) for u in said)}
    return {
        "digit_error_rate": errors,
        "utterances": args.evaluate,
        "speakers": {"train": digits.TRAIN, "dev": digits.DEV, "test": digits.TEST},
        "exits_after_layers": model.config.exits,
        "config": asdict(model.config),
        "settings": {
            "seed": args.seed,
            "steps": args.steps,
            "lr": args.lr,
            "threads": args.threads,
            "crowd": args.crowd is not None,
        },
        "cpu_seconds": history[-1].cpu_seconds,
        **common.versions(),
        "history": [asdict(p) for p in history],
    }


def data(args: argparse.Namespace) -> None:
    """Writes the utterances of one part to an npz."""
    said = fixed_set(digits.load(args.data), args.part, args.count, m=CLEAN if args.clean else HARD)
    digits.save(args.out, said)
    print(f"{args.out}: {len(said)} utterances, {sum(len(u.digits) for u in said)} digits by {said[0].speaker}")


def wav(args: argparse.Namespace) -> None:
    """Writes the first test utterance, in babble and noise and without, as 16-bit wav files with texts."""
    voices = digits.load(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = [(name, fixed_set(voices, "test", 1, m=m)[0]) for name, m in (("hard-0", HARD), ("clean-0", CLEAN))]
    for name, said in chosen:
        with wave.open(str(args.out / f"{said.speaker}-{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(digits.RATE)
            file.writeframes(np.round(said.samples * 32767).astype("<i2").tobytes())
        (args.out / f"{said.speaker}-{name}.txt").write_text(said.text + "\n")


def main() -> None:
    """The command line."""
    parser = common.argument_parser(__doc__)
    commands = parser.add_subparsers(required=True)
    for function in (train, data, wav):
        command = commands.add_parser(function.__name__, help=(function.__doc__ or "").split("\n")[0])
        command.set_defaults(run=function)
        command.add_argument("data", type=Path, metavar="FSDD", help="folder with audio.flac and meta.npz")
        if function is train:
            common.add_training_options(command, threads=1)
            common.add_learning_rate(command, 2e-3)
            command.add_argument("--alone", type=int, metavar="LAYERS", help="one exit, after that many layers")
            command.add_argument("--crowd", type=Path, metavar="NPZ", help="more training voices, written by crowd.py")
            command.add_argument("--steps", type=int, default=4000)
            command.add_argument(
                "--evaluate", type=int, default=600, help="utterances of dev and of test to measure on"
            )
        else:
            command.add_argument("--out", type=Path, required=True, help="file (data) or folder (wav) to write")
        if function is data:
            command.add_argument("--part", choices=("dev", "test"), required=True)
            command.add_argument("--count", type=int, default=600)
            command.add_argument("--clean", action="store_true", help="without babble and with little noise")
    args = parser.parse_args()
    common.run_command(args.run, args)


if __name__ == "__main__":
    main()
