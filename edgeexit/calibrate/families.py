"""Table of policy families: the built-in ones, and those of other packages.

Other packages register a `PolicyFamily` under its name in the entry-point group ``edgeexit.policy_families``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from edgeexit.calibrate.rejection.qute import QUTE
from edgeexit.calibrate.rejection.window import WINDOW
from edgeexit.calibrate.search.baselines import FIXED, RANDOM
from edgeexit.calibrate.search.eero import EERO
from edgeexit.calibrate.search.family import CandidateFamily, PolicyFamily, SweepCurve
from edgeexit.calibrate.search.pareto import SHARED, THRESHOLD
from edgeexit.calibrate.search.patience import PATIENCE
from edgeexit.calibrate.search.qexit import QEXIT
from edgeexit.common.plugins import plugin, plugin_names
from edgeexit.errors import PolicyError
from edgeexit.policy.scores import ANSWER_SCORES
from edgeexit.records.base import Rows

BUILT_IN = (THRESHOLD, SHARED, EERO, WINDOW, QUTE, QEXIT, PATIENCE, FIXED, RANDOM)
GROUP = "edgeexit.policy_families"
DEFAULT_FAMILY = "eero"
"""Its thresholds follow from exit rates, one number along the front, so that few rows are enough; with thousands of
rows "threshold" can cost less. Measured in docs/decisions/few-rows.md."""


def family_of(name: str) -> PolicyFamily:
    """A family by name.

    Raises:
        PolicyError: unknown, or its package cannot be loaded.
    """
    for family in BUILT_IN:
        if family.name == name and family.calibrates:
            return family
    # Scanning installed packages takes time on a small device, so it is done for unknown names only.
    for family in registered():
        if family.name == name and family.calibrates:
            return family
    raise PolicyError(f"unknown policy {name!r}; known: {', '.join(family_names())}")


@cache
def registered() -> tuple[PolicyFamily, ...]:
    """Families of other packages, by name.

    Raises:
        PolicyError: a package cannot be loaded, registers something else, or a name that is taken.
    """
    families = []
    for name in plugin_names(GROUP):
        family = plugin(GROUP, name, PolicyError)
        if not isinstance(family, PolicyFamily) or family.name != name:
            raise PolicyError(
                f"entry point {name!r} of group {GROUP} is {family!r:.120}; expected a PolicyFamily of that name"
            )
        if name in (f.name for f in BUILT_IN):
            raise PolicyError(f"entry point {name!r} of group {GROUP}: edgeexit has a family of that name")
        families.append(family)
    return tuple(families)


def all_families() -> tuple[PolicyFamily, ...]:
    """The built-in families, then those of other packages."""
    return (*BUILT_IN, *registered())


def family_names() -> tuple[str, ...]:
    """Families that a policy can be chosen of."""
    return tuple(family.name for family in all_families() if family.calibrates)


def candidate_family(
    name: str = DEFAULT_FAMILY,
    score: str = "maxprob",
    temperatures: tuple[float, ...] | None = None,
    options: Mapping[str, object] | None = None,
) -> CandidateFamily:
    """A family by name with its score and options.

    Args:
        name: of `family_names`.
        score: what its policies compare, of `edgeexit.policy.scores.NAMES`.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.
        options: of the family, by name.

    Raises:
        PolicyError: an unknown family or option.
    """
    family = family_of(name)
    return CandidateFamily(family, score, temperatures, family.read_options(options or {}))


def curves_of(
    scores: tuple[str, ...], default: str, families: tuple[PolicyFamily, ...]
) -> dict[str, tuple[SweepCurve, PolicyFamily]]:
    """Lines of a sweep by name: common scores, the rows' own scores, then baselines.

    Args:
        scores: of the rows.
        default: the rows' default score.
        families: that are swept.
    """
    common = tuple(s for s in ANSWER_SCORES if s in scores)
    own = tuple(s for s in scores if s not in ANSWER_SCORES)
    curves: dict[str, tuple[SweepCurve, PolicyFamily]] = {}
    for baseline in (False, True):
        for names in (common, own):
            for family in families:
                if (family.baseline is not None) == baseline:
                    for curve in family.curves(names, default):
                        curves.setdefault(curve.name, (curve, family))
    return curves


def swept(rows: Rows) -> dict[str, tuple[SweepCurve, PolicyFamily]]:
    """Lines of a sweep that these rows allow, by name."""
    return curves_of(rows.score_names, rows.default_score, all_families())


_PLAIN = curves_of(ANSWER_SCORES, ANSWER_SCORES[0], BUILT_IN)
ADAPTIVE = tuple(name for name, (_, family) in _PLAIN.items() if family.baseline is None)
"""Built-in lines of a sweep that look at the outputs, on the scores of classes; rows with scores of their own have
more."""
BASELINES = tuple(name for name, (_, family) in _PLAIN.items() if family.baseline is not None)
