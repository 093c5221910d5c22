"""DS-CNN on sound: MLPerf Tiny's keyword features as part of the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit_models.definitions.dscnn import dscnn
from edgeexit_models.protocol import InputSpec

RATE = 16_000
BANDS, COEFFICIENTS = 40, 10
WINDOW, SHIFT, TRANSFORM = 480, 320, 512
LOW_HZ, HIGH_HZ = 20.0, 4000.0
FLOOR = 1e-6
"""Added to band energies before the logarithm."""


class KeywordFeatures(nn.Module):
    """One second of sound `(batch, 16000)` -> MFCCs `(batch, 1, 49, 10)` as MLPerf Tiny's keyword spotter takes them.

    Frames of 30 ms every 20 ms, Hann window, magnitudes of a 512-point Fourier transform, 40 mel bands from 20 to
    4000 Hz, natural logarithm, the first 10 cosine coefficients. Sound is divided by its largest sample (not its
    largest absolute one, as in the reference), so any scale will do. Framing, window and transform are one
    convolution with stride: engines for small devices have no Fourier transform.
    """

    def __init__(self) -> None:
        super().__init__()
        time = torch.arange(WINDOW, dtype=torch.float64)
        window = 0.5 - 0.5 * torch.cos(2 * math.pi * time / WINDOW)
        angles = 2 * math.pi * time[:, None] * torch.arange(TRANSFORM // 2 + 1) / TRANSFORM
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1) * window[:, None]
        order, band = torch.arange(COEFFICIENTS), torch.arange(BANDS)
        cosines = torch.cos(math.pi * order * (2 * band[:, None] + 1) / (2 * BANDS)) * 2 / math.sqrt(2 * BANDS)
        self.waves: Tensor
        self.bands: Tensor
        self.cosines: Tensor
        self.register_buffer("waves", waves.T[:, None].float().contiguous(), persistent=False)
        self.register_buffer("bands", _mel_bands(), persistent=False)
        self.register_buffer("cosines", cosines.float(), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        peak = sound.amax(dim=1, keepdim=True)
        scaled = sound / torch.where(peak == 0, torch.ones_like(peak), peak)
        real, imaginary = functional.conv1d(scaled[:, None], self.waves, stride=SHIFT).transpose(1, 2).chunk(2, dim=-1)
        energies = torch.sqrt(real * real + imaginary * imaginary) @ self.bands
        return (torch.log(energies + FLOOR) @ self.cosines)[:, None]


class Keywords(nn.Module):
    """A keyword spotter for MFCCs with the features in front: `(batch, 16000)` samples at 16 kHz -> its exits.

    Args:
        spotter: takes `(batch, 1, 49, 10)`, as `edgeexit_models.definitions.dscnn`.
    """

    def __init__(self, spotter: nn.Module) -> None:
        super().__init__()
        self.input_spec: InputSpec = {"sound": ("float32", ("batch", RATE))}
        self.features = KeywordFeatures()
        self.spotter = spotter

    def forward(self, sound: Tensor) -> tuple[Tensor, ...]:
        logits: tuple[Tensor, ...] = self.spotter(self.features(sound))
        return logits


def dscnn_sound(classes: int = 12) -> Keywords:
    """`dscnn` on sound; the features have no weights, so trained ones fit `dscnn_sound().spotter`."""
    return Keywords(dscnn(classes))


def _mel_bands() -> Tensor:
    """Triangles in mel over the transform's bins `(257, 40)`; the constant's bin takes part in none."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log1p(hertz / 700.0)

    bins = torch.tensor([mel(RATE / TRANSFORM * i) for i in range(1, TRANSFORM // 2 + 1)], dtype=torch.float64)[:, None]
    edges = torch.linspace(mel(LOW_HZ), mel(HIGH_HZ), BANDS + 2, dtype=torch.float64)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return torch.cat([torch.zeros(1, BANDS, dtype=torch.float64), triangles]).float()
