"""Results of `augment`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeexit.bundle.bundle import Bundle
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit_exporters.augment.choose import ExitChoice
from edgeexit_exporters.augment.places import Place
from edgeexit_exporters.augment.verdict import AugmentVerdict


@dataclass(frozen=True)
class Candidate:
    """A place, and what a head there is worth."""

    place: Place
    cost: float
    """MACs up to here, as a fraction of the network's."""
    head_macs: int
    accuracy: float
    """Of the head on the rows to choose on; or agreement with the network."""
    used: bool


@dataclass(frozen=True)
class Tuned:
    """The same exits after heads and backbone were trained on."""

    verdict: AugmentVerdict | None
    """On the rows that certify, against the untouched network; None = the allowed loss was not kept."""
    text: str
    bundle: Bundle | None
    """None = not written, as there is no such point, or it is not worth it."""
    point: OperatingPoint | None
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Layout -> why the bundle has none of it."""


@dataclass(frozen=True)
class Augmented:
    """What came of it."""

    verdict: AugmentVerdict | None
    """On the rows that certify; None = no exit was worth choosing."""
    text: str
    """The verdict in words."""
    bundle: Bundle | None
    """None = not worth it, so none was written."""
    point: OperatingPoint | None
    candidates: tuple[Candidate, ...]
    choice: ExitChoice
    measure: str
    """accuracy, or agreement with the untouched model."""
    total_macs: int
    rows: Mapping[str, int]
    """Of every part: fit, choose, certify."""
    seconds: Mapping[str, float]
    """Of every step."""
    tuned: Tuned | None = None
    """None = not asked for."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Layout -> why the bundle has none of it."""


@dataclass(frozen=True)
class Shipped:
    """A network with exits, exported, calibrated and judged."""

    point: OperatingPoint
    verdict: AugmentVerdict
    bundle: Bundle | None
    """None = not worth it, so none was written."""
    left_out: Mapping[str, str]
    """Layout -> why the bundle has none of it."""


@dataclass(frozen=True)
class Tested:
    """What an augmented bundle does on rows that had no part in making it."""

    verdict: AugmentVerdict
    hindsight: Mapping[float, float | None]
    """Accuracy lost -> the least cost at which these exits could lose no more, had the thresholds been chosen on these
    very rows: where the limit is. None = at no cost below the untouched network's."""
    curve: tuple[tuple[float, float], ...]
    """(cost, accuracy) of all such thresholds that are worth a thought."""
    tuned: Tested | None = None
    """Of the fine-tuned bundle."""
