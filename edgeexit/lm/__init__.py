"""Language models on the device: exits per token, one cache, and speculation that claims only what was proved.

::

    from edgeexit import lm

    model = lm.load_lm("code.edgeexit")
    for piece in lm.answer(model, "def main(", lm.Decoding("speculative", exit=2, draft=4)):
        print(piece.text, end="", flush=True)

Needs numpy and one engine library, and `tokenizers` where text goes in. Names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeexit.bundle.lm_spec import LmProof, LmSpec
    from edgeexit.lm.batch import AnswerBatch
    from edgeexit.lm.costs import Costs
    from edgeexit.lm.decoding import AnswerProbe
    from edgeexit.lm.generate import Answer, Generation, Piece, answer
    from edgeexit.lm.loading import load_lm
    from edgeexit.lm.model import LanguageModel
    from edgeexit.lm.sampling import Sampler
    from edgeexit.lm.session import Session
    from edgeexit.lm.settings import Decoding
    from edgeexit.lm.tuning.consistency import certify
    from edgeexit.lm.tuning.measure_costs import measure
    from edgeexit.lm.tuning.tune import tune

__all__ = [
    # the doorway
    "load_lm",
    "answer",
    # what they give
    "Answer",
    "AnswerBatch",
    "Generation",
    "LanguageModel",
    "Piece",
    # how to decode
    "AnswerProbe",
    "Sampler",
    "Decoding",
    # what is fastest here, and what is near enough
    "Costs",
    "certify",
    "measure",
    "tune",
    # parts
    "LmProof",
    "LmSpec",
    "Session",
]

_HOMES = {
    "edgeexit.lm.batch": ("AnswerBatch",),
    "edgeexit.lm.tuning.consistency": ("certify",),
    "edgeexit.lm.costs": ("Costs",),
    "edgeexit.lm.decoding": ("AnswerProbe",),
    "edgeexit.lm.generate": ("Answer", "Generation", "Piece", "answer"),
    "edgeexit.lm.loading": ("load_lm",),
    "edgeexit.lm.tuning.measure_costs": ("measure",),
    "edgeexit.lm.model": ("LanguageModel",),
    "edgeexit.lm.sampling": ("Sampler",),
    "edgeexit.lm.session": ("Session",),
    "edgeexit.lm.settings": ("Decoding",),
    "edgeexit.bundle.lm_spec": ("LmProof", "LmSpec"),
    "edgeexit.lm.tuning.tune": ("tune",),
}


def __getattr__(name: str) -> Any:
    import importlib

    for module, names in _HOMES.items():
        if name in names:
            found = getattr(importlib.import_module(module), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'edgeexit.lm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
