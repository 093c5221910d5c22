"""Section `speech.features` of the manifest: settings of log-mel filter banks."""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated

from edgeexit.common.kinds import Number, OneOf, Whole
from edgeexit.common.records import CheckedRecord
from edgeexit.errors import DataError

WINDOWS = ("povey", "hanning", "hamming", "rectangular")
_MOST_SAMPLES = 1 << 16
_Milliseconds = Annotated[float, Number(0, 10000)]


@dataclass(frozen=True)
class FeatureSpec(CheckedRecord, title="features"):
    """How samples become frames of `bins` numbers; the defaults are those of Kaldi.

    Raises:
        DataError: settings that fit no filter bank; the message names the field.
    """

    sample_rate: Annotated[int, Whole(1000, 384000)]
    """Hz."""
    bins: Annotated[int, Whole(1, 1024)]
    """Number of bands."""
    window_ms: _Milliseconds = 25.0
    """Length of a window; in samples `int(sample_rate * 0.001 * window_ms)`, 2 to 65536."""
    shift_ms: _Milliseconds = 10.0
    """From one window to the next; in samples likewise, 1 to as many as the window."""
    window: Annotated[str, OneOf(*WINDOWS)] = "povey"
    """povey: hanning to the power of 0.85; all are symmetric."""
    preemphasis: Annotated[float, Number(0, 1)] = 0.97
    """Share of the sample before that is subtracted."""
    remove_dc: bool = True
    """Whether the mean of every window is subtracted."""
    low_hz: Annotated[float, Number(0, 192000)] = 20.0
    """Lower edge of the first band."""
    high_hz: Annotated[float, Number(-192000, 192000)] = 0.0
    """Upper edge of the last band; 0 and less count down from half the sample rate."""
    snip_edges: bool = False
    """True: only windows that lie wholly in the audio; False: frame i is centred on `shift * (i + 1/2)`, the audio
    mirrored at both ends, and there are `(samples + shift // 2) // shift`."""
    sample_scale: Annotated[float, Number(1e-9, 65536)] = 1.0
    """Factor on samples in [-1, 1]; 32768 for models that were trained on 16-bit numbers."""
    log_floor: Annotated[float, Number(1e-37, 1)] = 1.1920929e-07
    """The logarithm is taken of at least this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.window_samples <= _MOST_SAMPLES:
            raise DataError(
                f"window_ms: {self.window_ms:g} ms at {self.sample_rate} Hz are {self.window_samples} samples; "
                f"expected 2 to {_MOST_SAMPLES}"
            )
        if not 1 <= self.shift_samples <= self.window_samples:
            raise DataError(
                f"shift_ms: expected at least one sample and at most the window of {self.window_ms:g} ms, "
                f"found {self.shift_ms:g}"
            )
        if not self.low_hz < self.top_hz <= self.sample_rate / 2:
            raise DataError(
                f"high_hz: the bands go from {self.low_hz:g} to {self.top_hz:g} Hz; expected a range within "
                f"0 to {self.sample_rate / 2:g}"
            )

    @property
    def window_samples(self) -> int:
        return int(self.sample_rate * 0.001 * self.window_ms)

    @property
    def shift_samples(self) -> int:
        return int(self.sample_rate * 0.001 * self.shift_ms)

    @property
    def top_hz(self) -> float:
        """The upper edge of the last band, as a frequency."""
        return self.high_hz if self.high_hz > 0 else self.sample_rate / 2 + self.high_hz

    def frames(self, samples: int) -> int:
        """How many frames that much audio gives."""
        if self.snip_edges:
            return max(0, 1 + (samples - self.window_samples) // self.shift_samples)
        return (samples + self.shift_samples // 2) // self.shift_samples

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that differ where any setting does."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]
