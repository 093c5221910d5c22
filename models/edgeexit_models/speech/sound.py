"""Log-mel filter banks as a part of the network, for exported speech models that take samples."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.speech.features import mel_weights, window_weights
from edgeexit_models.speech.config import ConformerConfig
from edgeexit_models.speech.conformer import EarlyExitConformer, Exit


class LogMel(nn.Module):
    """Sound `(batch, samples)` and its valid samples `(batch,)` -> frames `(batch, time, bins)` and the valid ones.

    The numbers of `edgeexit.speech.features.log_mel` (Kaldi's fbank). All that is linear there (the sound's scale, the
    mean taken off every window, pre-emphasis, the window, the Fourier transform) is one convolution with stride here:
    engines for small devices have no Fourier transform, and one convolution is one pass over memory.

    Frames that are not valid hold anything finite. Valid samples must fill a window, or what the end mirrors is short.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec
        window, shift = spec.window_samples, spec.shift_samples
        self.before = 0 if spec.snip_edges else window // 2 - shift // 2
        # So many more samples make the convolution give (samples + shift // 2) // shift frames.
        self.more = 0 if spec.snip_edges else shift // 2 + window - shift
        bands, size = mel_weights(spec)
        used = np.flatnonzero(bands.any(axis=1))
        waves = np.concatenate(_waves(spec, used, size))
        self.waves: Tensor
        self.bands: Tensor
        self.register_buffer("waves", torch.from_numpy(waves[:, None].astype(np.float32)), persistent=False)
        self.register_buffer("bands", torch.from_numpy(bands[used].astype(np.float32)), persistent=False)

    def forward(self, sound: Tensor, sound_lens: Tensor) -> tuple[Tensor, Tensor]:
        if not self.spec.snip_edges:
            sound = self.mirrored(sound, sound_lens)
        spectrum = functional.conv1d(sound[:, None], self.waves, stride=self.spec.shift_samples).transpose(1, 2)
        real, imaginary = spectrum.chunk(2, dim=-1)
        bands = (real * real + imaginary * imaginary) @ self.bands
        return torch.log(torch.clamp(bands, min=self.spec.log_floor)), self.frames(sound_lens)

    def frames(self, samples: Tensor) -> Tensor:
        """How many frames so many samples give."""
        window, shift = self.spec.window_samples, self.spec.shift_samples
        # only non-negative numbers are divided: engines disagree on // of negative integers
        full = torch.clamp(samples - window + shift, min=0) if self.spec.snip_edges else samples + shift // 2
        return torch.div(full, shift, rounding_mode="trunc")

    def mirrored(self, sound: Tensor, sound_lens: Tensor) -> Tensor:
        """The sound between its mirror images, each row's end where its own samples end."""
        place = torch.arange(sound.shape[1] + self.more, device=sound.device)[None] - self.before
        place = torch.where(place < 0, -1 - place, place)
        place = torch.where(place >= sound_lens[:, None], 2 * sound_lens[:, None] - 1 - place, place)
        return torch.gather(sound, 1, torch.clamp(place, 0, sound.shape[1] - 1))


class SoundConformer(EarlyExitConformer):
    """An encoder with its features in front: sound `(batch, samples)` in [-1, 1] and its counts -> the exits.

    Features have no weights, so those of an encoder that is given features fit.

    Args:
        config: as `EarlyExitConformer`.
        speech: the network's features and tokens.
    """

    def __init__(self, config: ConformerConfig, speech: SpeechSpec) -> None:
        super().__init__(config, speech)
        self.log_mel = LogMel(speech.features)
        samples = int(speech.features.sample_rate * 16 * speech.frame_seconds)
        self.input_spec = {"sound": ("float32", ("batch", f"samples={samples}")), "sound_lens": ("int64", ("batch",))}

    def forward(self, sound: Tensor, sound_lens: Tensor) -> list[Exit]:
        return super().forward(*self.log_mel(sound, sound_lens))


def _waves(spec: FeatureSpec, used: NDArray[np.intp], size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Real and imaginary rows `(frequencies, window)` of everything linear between samples and spectrum."""
    n = spec.window_samples
    steps = np.eye(n) * spec.sample_scale
    if spec.remove_dc:
        steps = steps - steps.mean(axis=0, keepdims=True)
    if spec.preemphasis:
        late = np.vstack([steps[:1], steps[:-1]])
        steps = steps - spec.preemphasis * late
    steps = window_weights(spec)[:, None] * steps
    angles = 2 * np.pi * used[:, None] * np.arange(n) / size
    return np.cos(angles) @ steps, -np.sin(angles) @ steps
