"""A tiny network that hears tones: every class is a band of its own, so its text is known without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from once import once

RATE = 8000
SPEECH = SpeechSpec(
    FeatureSpec(RATE, 20, high_hz=-400),
    ("<blk>", "▁low", "▁high", "</s>"),
    0,
    (3,),
    frame_seconds=0.04,
    least_frames=7,
)
TONES = {"low": 300.0, "high": 2500.0}


def said(*words: str, seconds: float = 0.4, pause: float = 0.4, rate: int = RATE) -> NDArray[np.float32]:
    """Tones between pauses of faint noise."""
    noise = np.random.default_rng(0).standard_normal
    found = [noise(int(pause * rate)) * 1e-4]
    for word in words:
        n = int(seconds * rate)
        tone = 0.5 * np.sin(2 * np.pi * TONES[word] / rate * np.arange(n)) * np.hanning(n) ** 0.2
        found += [tone + noise(n) * 1e-4, noise(int(pause * rate)) * 1e-4]
    return np.concatenate(found).astype(np.float32)


def tones() -> Path:
    """Two exits, the first deaf to the high tone, for sound of any length. Do not change it."""
    return once("tones", lambda folder: make(folder / "tones.edgeexit"))


def make(folder: Path, time: int | str = "time", deaf: bool = True) -> Path:
    """A bundle with two exits; `deaf`: the first hears the low tone only.

    Subsamples as the real networks do: 4 frames to one, none for fewer than 7.
    """
    torch = pytest.importorskip("torch", reason="the network is made with torch")
    import edgeexit

    nn = torch.nn

    class Net(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.input_spec = {
                "x": ("float32", ("batch", time, SPEECH.features.bins)),
                "x_lens": ("int64", ("batch",)),
            }
            weight = torch.zeros(2, SPEECH.features.bins)
            weight[0, :8], weight[1, 12:] = 1 / 8, 1 / 8
            self.register_buffer("weight", weight)
            self.register_buffer("same", torch.eye(2))  # the second stage's computation

        def forward(self, x, x_lens):  # type: ignore[no-untyped-def]
            frames = torch.nn.functional.avg_pool1d(x.transpose(1, 2), 7, 4).transpose(1, 2)
            heard = 4 * (frames @ self.weight.T + 5.0)  # about ln(power) of the low and of the high bands
            lengths = torch.div(torch.clamp(x_lens - 3, min=0), 4, rounding_mode="trunc")
            found = []
            for scale in (0.0 if deaf else 1.0, 1.0):
                heard = heard @ self.same if found else heard
                low, high = heard[..., 0], heard[..., 1]
                nothing = torch.zeros_like(low)
                above = torch.stack([nothing, low, scale * high + (scale - 1) * 40, nothing - 90], -1)
                found.append({"output": torch.log_softmax(above, -1), "lengths": lengths})
            return found

    # Both exits cost the same, which is refused where nobody names them.
    edgeexit.export(Net(), folder, exits=["exit0", "exit1"], name="tones", speech=SPEECH)
    return folder
