"""Section `speech` of the manifest: audio features of a CTC model and the symbols of its classes."""

from dataclasses import dataclass
from typing import Annotated

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.common.kinds import Number, String, Whole
from edgeexit.common.records import CheckedRecord, NotRequired, Size
from edgeexit.errors import DataError

MOST_TOKENS = 1 << 16
LONGEST_TOKEN = 128
LONGEST_FRAME = 10.0
"""Seconds"""
MOST_LEAST_FRAMES = 1 << 16
_Class = Annotated[int, Whole(0, MOST_TOKENS - 1)]


@dataclass(frozen=True)
class SpeechSpec(CheckedRecord, title="speech"):
    """Audio features of a CTC model and the symbols of its classes.

    Raises:
        DataError: a field that is not what it should be, or fields that do not fit each other.
    """

    features: FeatureSpec
    """How samples become frames."""
    tokens: Annotated[tuple[Annotated[str, String(LONGEST_TOKEN)], ...], Size(2, MOST_TOKENS)]
    """Symbol of every class, as many as the last exit has classes; U+2581 stands for a space."""
    blank: _Class
    """Class that stands for nothing; between two equal classes it separates them."""
    drop: Annotated[tuple[_Class, ...], Size(0, MOST_TOKENS, rising=True)] = ()
    """Classes that are decoded but not written, e.g. for the end of a sentence, rising; not the blank."""
    frame_seconds: Annotated[float, Number(positive=True, most=LONGEST_FRAME)] = 0.04
    """Seconds from one position of the answer to the next."""
    least_frames: NotRequired[Annotated[int, Whole(1, MOST_LEAST_FRAMES)]] = 1
    """Feature frames that the network needs at least; shorter audio is padded behind its end with `ln(log_floor)`.
    Missing = 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for at, value in (("blank", self.blank), *((f"drop[{i}]", v) for i, v in enumerate(self.drop))):
            if value >= len(self.tokens):
                raise DataError(f"{at}: expected one of the {len(self.tokens)} tokens, found {value}")
        if self.blank in self.drop:
            raise DataError(f"drop: expected classes without the blank, found {list(self.drop)!r:.60}")
