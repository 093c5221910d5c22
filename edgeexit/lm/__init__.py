"""Language models on the device: exits per token, one cache, and speculation that claims only what was proved.

::

    from edgeexit import lm

    model = lm.load_lm("code.edgeexit")
    for piece in lm.answer(model, "def main(", lm.Setting("speculative", exit=2, draft=4)):
        print(piece.text, end="", flush=True)

Needs numpy and one engine library, and `tokenizers` where text goes in. Names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeexit.lm.batch import Batch
    from edgeexit.lm.consistency import certify
    from edgeexit.lm.costs import Costs
    from edgeexit.lm.decoding import AnswerProbe
    from edgeexit.lm.generating import Answer, Generation, Piece, answer
    from edgeexit.lm.loading import load_lm
    from edgeexit.lm.measuring import measure
    from edgeexit.lm.model import LanguageModel
    from edgeexit.lm.sampling import Sampler
    from edgeexit.lm.session import Session
    from edgeexit.lm.setting import Setting
    from edgeexit.lm.spec import LmProof, LmSpec
    from edgeexit.lm.studying import study

__all__ = [
    # the doorway
    "load_lm",
    "answer",
    # what they give
    "Answer",
    "Batch",
    "Generation",
    "LanguageModel",
    "Piece",
    # how to decode
    "AnswerProbe",
    "Sampler",
    "Setting",
    # what is fastest here, and what is near enough
    "Costs",
    "certify",
    "measure",
    "study",
    # parts
    "LmProof",
    "LmSpec",
    "Session",
]

_HOMES = {
    "batch": ("Batch",),
    "consistency": ("certify",),
    "costs": ("Costs",),
    "decoding": ("AnswerProbe",),
    "generating": ("Answer", "Generation", "Piece", "answer"),
    "loading": ("load_lm",),
    "measuring": ("measure",),
    "model": ("LanguageModel",),
    "sampling": ("Sampler",),
    "session": ("Session",),
    "setting": ("Setting",),
    "spec": ("LmProof", "LmSpec"),
    "studying": ("study",),
}


def __getattr__(name: str) -> Any:
    import importlib

    for module, names in _HOMES.items():
        if name in names:
            found = getattr(importlib.import_module(f"edgeexit.lm.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'edgeexit.lm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
