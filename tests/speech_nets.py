"""A small CTC network with three exits, its bundle, and sound to hear with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeexit
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from once import once

BINS, WIDTH, EXITS = 8, 12, 3
SPEECH = SpeechSpec(
    FeatureSpec(sample_rate=8000, bins=BINS, high_hz=-400.0),
    ("<blk>", "</s>", "▁one", "▁two", "▁three", "▁four"),
    blank=0,
    drop=(1,),
    frame_seconds=0.02,
)


class TinyCtc(nn.Module):
    """Weights by chance; the time axis is halved, padding is masked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.input_spec = {"x": ("float32", ("batch", "time", BINS)), "x_lens": ("int64", ("batch",))}
        self.speech_spec = SPEECH
        self.down = nn.Linear(2 * BINS, WIDTH)
        self.mix = nn.ModuleList([nn.Conv1d(WIDTH, WIDTH, 3, padding=1) for _ in range(EXITS)])
        self.head = nn.Linear(WIDTH, len(SPEECH.tokens))

    def forward(self, x: Tensor, x_lens: Tensor) -> list[dict[str, Tensor]]:
        half = x.shape[1] // 2
        even = (x[:, : 2 * half] - torch.linspace(-4, 4.6, BINS)) / 2.3  # about what these sounds have
        h = self.down(even.reshape(x.shape[0], half, 2 * BINS))
        lens = x_lens // 2
        mask = (torch.arange(half)[None] < lens[:, None]).to(h.dtype)[..., None]
        exits = []
        for k in range(EXITS):
            change = self.mix[k]((h * mask).transpose(1, 2)).transpose(1, 2)
            h = h + 0.3 * torch.tanh(change)
            exits.append({"output": torch.log_softmax(3 * self.head(h), -1), "lengths": lens})
        return exits


def speech_bundle() -> Bundle:
    """The network's bundle with `speech` in its manifest. Do not change it."""
    return once("tiny-ctc", _export)


def _export(folder: Path) -> Bundle:
    bundle = edgeexit.export(TinyCtc(), folder / "tiny-ctc.edgeexit", layouts=("chain", "prefix"))
    return bundle.rewrite({}, replace(bundle.manifest, speech=SPEECH))


def sounds(n: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Noise whose band and loudness change, 0.2 to 1.2 s at 8 kHz."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        parts = []
        for _ in range(int(rng.integers(1, 5))):
            t = np.arange(int(rng.integers(1600, 2400)))
            tone = np.sin(t * rng.uniform(0.1, 2.5)) * rng.uniform(0.02, 0.5)
            parts.append(tone + rng.normal(0, rng.uniform(0.001, 0.1), len(t)))
        made.append(np.clip(np.concatenate(parts), -1, 1).astype(np.float32))
    return made


def write_speech(path: Path, sound: list[NDArray[np.float32]], texts: list[str], rate: int = 8000) -> Path:
    """A data file as `edgeexit evaluate` reads it."""
    starts = np.cumsum([0, *map(len, sound)])
    np.savez(path, samples=np.concatenate(sound), starts=starts, texts=np.array(texts), sample_rate=np.int64(rate))
    return path
