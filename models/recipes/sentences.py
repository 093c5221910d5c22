"""Training of an early-exit encoder on transcribed recordings, its error rates, and the files an export needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.common.files import read_json, write_atomic
from edgeexit.errors import DataError
from edgeexit.speech.features import log_mel
from edgeexit.speech.tokens import Tokens
from edgeexit_models.speech.config import ConformerConfig
from edgeexit_models.speech.conformer import EarlyExitConformer
from edgeexit_models.speech.corpus import Batches, Corpus
from edgeexit_models.speech.measure import text_errors
from edgeexit_models.speech.trainer import Progress, fit_ctc
from recipes.common import log, versions, write_json, write_weights

SHOWN = 5
"""Utterances of every part whose transcripts are written to the metrics."""


def train_sentences(
    model: EarlyExitConformer,
    train: Corpus,
    parts: Mapping[str, Corpus],
    out: Path,
    *,
    steps: int,
    seed: int,
    schedule: Callable[[int], float],
    seconds: float = 60.0,
    resume: bool = False,
    threads: int | None = None,
    report_every: int = 100,
    validate_every: int = 1000,
) -> dict[str, Any]:
    """Trains and measures; normalisation of features comes from `train`.

    Args:
        model: with a `speech_spec`; seed torch before building it to repeat a run.
        train: recordings to train on.
        parts: name -> recordings to measure on; the word error rate on the first is reported while training.
        out: folder for `checkpoint.pt`, `model.safetensors`, `tokens.txt`, `speech.json` (the specification of
            features and tokens) and `metrics.json`.
        steps: changes of the weights.
        seed: of order, augmentation and dropout.
        schedule: step -> learning rate.
        seconds: audio in a batch, about.
        resume: continue from the checkpoint in the folder.
        threads: torch threads.
        report_every: steps between reports.
        validate_every: steps between measurements.

    Returns:
        The content of `metrics.json`.

    Raises:
        DataError: the model has no speech specification, or texts that its tokens cannot spell.
        ModelError: as `fit_ctc`.
    """
    speech = model.speech_spec
    if speech is None:
        raise DataError("the network has no speech_spec: build it with the features and tokens it is made for")
    batches = Batches(train, speech, seed, seconds)
    model.set_normalisation(batches.mean, batches.deviation)
    first = next(iter(parts.values()), None)

    def report(progress: Progress) -> None:
        errors = "  WER " + " ".join(f"{e:.3f}" for e in progress.errors) if progress.errors else ""
        log(f"step {progress.step:6d}  loss {progress.loss:.4f}  cpu {progress.cpu_seconds:.0f} s{errors}")

    history = fit_ctc(
        model, batches, steps=steps, seed=seed, schedule=schedule, blank=speech.blank, checkpoint=out / "checkpoint.pt",
        resume=resume, progress=report, report_every=report_every, validate_every=validate_every, threads=threads,
        validate=None if first is None else lambda m: _errors(m, first, speech)["wer"],
    )  # fmt: skip
    result = {
        "parts": {name: _errors(model, corpus, speech) for name, corpus in parts.items()},
        "training": {"recordings": len(train.texts), "seed": seed, "steps": steps, "schedule": repr(schedule)},
        "exits_after_layers": model.config.exits,
        "config": asdict(model.config),
        "cpu_seconds": history[-1].cpu_seconds,
        **versions(),
        "history": [asdict(p) for p in history],
    }
    write_weights(out / "model.safetensors", model)
    write_atomic(out / "tokens.txt", Tokens.of(speech).to_text())
    write_json(out / "speech.json", speech.to_dict())
    write_json(out / "metrics.json", result)
    return result


def load_trained(folder: Path) -> EarlyExitConformer:
    """The network that `train_sentences` wrote to a folder, in evaluation mode; `edgeexit.export` takes it.

    Raises:
        DataError: the folder lacks a file, or they do not fit each other.
    """
    import safetensors.torch

    speech, metrics = (read_json(folder / name, DataError) for name in ("speech.json", "metrics.json"))
    try:
        config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in metrics["config"].items()}
        model = EarlyExitConformer(ConformerConfig(**config), SpeechSpec.from_dict(speech, "speech.json"))
        model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as e:
        raise DataError(f"{folder}: not the files that `train_sentences` writes: {e}") from e
    return model.eval()


def _errors(model: torch.nn.Module, corpus: Corpus, speech: SpeechSpec) -> dict[str, Any]:
    features = [log_mel(corpus.samples(i), speech.features) for i in range(len(corpus.texts))]
    errors = text_errors(model, features, corpus.texts, speech)
    shown = [
        {"said": text, "heard": [rows[i] for rows in errors.transcripts]} for i, text in enumerate(corpus.texts[:SHOWN])
    ]
    return {
        "wer": errors.words,
        "cer": errors.characters,
        "recordings": len(corpus.texts),
        "words": sum(len(text.split()) for text in corpus.texts),
        "examples": shown,
    }
