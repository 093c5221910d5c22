"""What a bundle must know to turn sound into text: `speech` of the manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.common.json_fields import check_fields
from edgeexit.errors import BundleError, DataError

MOST_TOKENS = 1 << 16
LONGEST_TOKEN = 128
LONGEST_FRAME = 10.0
"""Seconds"""
MOST_LEAST_FRAMES = 1 << 16
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FIELDS = ("features", "tokens", "blank", "drop", "frame_seconds", "least_frames")


@dataclass(frozen=True)
class SpeechSpec:
    """How a CTC model hears and what its answers spell.

    Raises:
        DataError: parts that do not fit each other.
    """

    features: FeatureSpec
    tokens: tuple[str, ...]
    """The symbol of every class of the answer; U+2581 stands for a space."""
    blank: int
    """The class that stands for nothing."""
    drop: tuple[int, ...] = ()
    """Classes that are decoded but not written, such as those for the beginning and the end of a sentence."""
    frame_seconds: float = 0.04
    """Time from one position of the answer to the next."""
    least_frames: int = 1
    """Feature frames that the network needs at least; shorter audio is filled up behind its end."""

    def __post_init__(self) -> None:
        for name in ("tokens", "drop"):
            if not isinstance(getattr(self, name), tuple):
                raise DataError(f"{name}: expected a tuple, found {type(getattr(self, name)).__name__}")
        if not 2 <= len(self.tokens) <= MOST_TOKENS:
            raise DataError(f"tokens: expected 2 to {MOST_TOKENS} symbols, found {len(self.tokens)}")
        for i, token in enumerate(self.tokens):
            if not isinstance(token, str) or not 0 < len(token) <= LONGEST_TOKEN or _UNPRINTABLE.search(token):
                raise DataError(f"tokens[{i}]: expected 1 to {LONGEST_TOKEN} printable characters, found {token!r:.40}")
        for at, value in (("blank", self.blank), *((f"drop[{i}]", v) for i, v in enumerate(self.drop))):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(self.tokens):
                raise DataError(f"{at}: expected one of the {len(self.tokens)} tokens, found {value!r:.40}")
        if list(self.drop) != sorted(set(self.drop)) or self.blank in self.drop:
            raise DataError(f"drop: expected rising numbers without the blank, found {list(self.drop)!r:.60}")
        number = isinstance(self.frame_seconds, int | float) and not isinstance(self.frame_seconds, bool)
        if not number or not 0 < self.frame_seconds <= LONGEST_FRAME:
            raise DataError(
                f"frame_seconds: expected a time of at most {LONGEST_FRAME:g} s, found {self.frame_seconds!r:.40}"
            )
        whole = isinstance(self.least_frames, int) and not isinstance(self.least_frames, bool)
        if not whole or not 1 <= self.least_frames <= MOST_LEAST_FRAMES:
            raise DataError(
                f"least_frames: expected a whole number from 1 to {MOST_LEAST_FRAMES}, found {self.least_frames!r:.40}"
            )
        object.__setattr__(self, "frame_seconds", float(self.frame_seconds))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; `from_dict` reads it back."""
        return {
            "features": self.features.to_dict(),
            "tokens": list(self.tokens),
            "blank": self.blank,
            "drop": list(self.drop),
            "frame_seconds": self.frame_seconds,
            "least_frames": self.least_frames,
        }

    @classmethod
    def from_dict(cls, data: Any, at: str = "speech") -> SpeechSpec:
        """Read it from JSON that may be hostile; unknown fields are refused, as they might change what is heard.

        Raises:
            BundleError: a missing, strange or unknown field; `at` names the place in the message.
        """
        check_fields(data, _FIELDS, at, optional=("least_frames",))
        for key in ("tokens", "drop"):
            if not isinstance(data[key], list) or len(data[key]) > MOST_TOKENS:
                raise BundleError(f"{at}.{key}: expected a list of at most {MOST_TOKENS}, found {data[key]!r:.60}")
        features = FeatureSpec.from_dict(data["features"], f"{at}.features")
        try:
            return cls(
                features,
                tuple(data["tokens"]),
                data["blank"],
                tuple(data["drop"]),
                data["frame_seconds"],
                data.get("least_frames", 1),
            )
        except DataError as e:
            raise BundleError(f"{at}.{e}") from e
