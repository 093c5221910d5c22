"""Settings of log-mel filter banks, as the manifest's `speech.features` holds them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgeexit.common.json_fields import check_fields
from edgeexit.errors import BundleError, DataError

WINDOWS = ("povey", "hanning", "hamming", "rectangular")


@dataclass(frozen=True)
class FeatureSpec:
    """How samples become frames of `bins` numbers; the defaults are those of Kaldi.

    Raises:
        DataError: settings that fit no filter bank; the message names the field.
    """

    sample_rate: int
    """Hz"""
    bins: int
    window_ms: float = 25.0
    shift_ms: float = 10.0
    window: str = "povey"
    """povey (Hann to the power of 0.85), hanning, hamming or rectangular"""
    preemphasis: float = 0.97
    remove_dc: bool = True
    """Take the mean off every window."""
    low_hz: float = 20.0
    high_hz: float = 0.0
    """Upper edge of the last band; 0 and less count down from half the sample rate."""
    snip_edges: bool = False
    """True: only windows that lie wholly in the audio; False: one frame per shift, the audio mirrored at its ends."""
    sample_scale: float = 1.0
    """Factor on samples in [-1, 1]; 32768 for models that were trained on 16-bit numbers."""
    log_floor: float = 1.1920929e-07
    """The log is taken of at least this."""

    def __post_init__(self) -> None:
        for name, kind, (least, most) in _BOUNDS:
            value = getattr(self, name)
            fits = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
            if not fits or not least <= value <= most:
                what = "a whole number" if kind is int else "a number"
                raise DataError(f"{name}: expected {what} from {least:g} to {most:g}, found {value!r:.40}")
            object.__setattr__(self, name, kind(value))  # 25 and 25.0 are one specification with one digest
        for name in ("remove_dc", "snip_edges"):
            if not isinstance(getattr(self, name), bool):
                raise DataError(f"{name}: expected true or false, found {getattr(self, name)!r:.40}")
        if self.window not in WINDOWS:
            raise DataError(f"window: expected one of {', '.join(WINDOWS)}, found {self.window!r:.40}")
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any, at: str = "features") -> FeatureSpec:
        """Read it from JSON that may be hostile. A field that is not known is refused: it might change the numbers.

        Raises:
            BundleError: a missing, strange or unknown field; `at` names the place in the message.
        """
        check_fields(data, [f.name for f in fields(cls)], at)
        try:
            return cls(**data)
        except DataError as e:
            raise BundleError(f"{at}.{e}") from e


_MOST_SAMPLES = 1 << 16
_BOUNDS: tuple[tuple[str, type[Any], tuple[float, float]], ...] = (
    ("sample_rate", int, (1000, 384000)),
    ("bins", int, (1, 1024)),
    ("window_ms", float, (0, 10000)),
    ("shift_ms", float, (0, 10000)),
    ("preemphasis", float, (0, 1)),
    ("low_hz", float, (0, 192000)),
    ("high_hz", float, (-192000, 192000)),
    ("sample_scale", float, (1e-9, 65536)),
    ("log_floor", float, (1e-37, 1)),
)
