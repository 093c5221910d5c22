"""Decoding methods, one per file; `method_of` creates the one of a setting."""

from __future__ import annotations

from edgeexit.errors import DataError
from edgeexit.lm.costs import Costs
from edgeexit.lm.decoding.base import Method, Round
from edgeexit.lm.decoding.calm import Calm
from edgeexit.lm.decoding.dynamic import Dynamic
from edgeexit.lm.decoding.greedy import Plain
from edgeexit.lm.decoding.lookup import Lookup
from edgeexit.lm.decoding.skip import Schedule, Skip
from edgeexit.lm.decoding.speculative import Speculative
from edgeexit.lm.decoding.stops import AnswerProbe, StopCheck
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Chooser
from edgeexit.lm.settings import Decoding

__all__ = ["AnswerProbe", "Method", "Round", "Schedule", "StopCheck", "method_of"]


def method_of(
    model: LanguageModel, chooser: Chooser, setting: Decoding, total: int, costs: Costs | None = None
) -> Method:
    """Create the method for one answer.

    Args:
        model: the model.
        chooser: sampling strategy.
        setting: which method, with its numbers.
        total: largest number of tokens of the answer.
        costs: this device's; `del` needs them.

    Raises:
        DataError: an exit that is not there, or `del` without costs.
    """
    if setting.method == "speculative":
        assert setting.exit is not None
        return Speculative(model, chooser, setting.exit, setting.draft, setting.sure)
    if setting.method == "lookup":
        return Lookup(model, chooser, setting.draft, setting.ngram)
    if setting.method == "calm":
        return Calm(model, chooser, setting, total)
    if setting.method == "skip":
        return Skip(model, chooser, Schedule.of(model, setting, total))
    if setting.method == "del":
        if costs is None:
            raise DataError(
                "del chooses by this device's costs: measure them with edgeexit.lm.tuning.measure_costs.measure"
            )
        costs.check(model, setting.draft + 1)
        return Dynamic(model, chooser, costs, setting.draft, setting.sure)
    return Plain(model, chooser)
