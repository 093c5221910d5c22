"""Language models on the device: exits per token, one cache, and speculation that claims only what was proved.

::

    from edgeexit import lm

    model = lm.load_lm("code.edgeexit")
    for piece in lm.answer(model, "def main(", lm.Decoding("speculative", exit=1, draft=4)):
        print(piece.text, end="", flush=True)

Needs numpy and one engine library, and `tokenizers` where text goes in. Public names are stated in ``__init__.pyi`` and
loaded when first used.
"""

from __future__ import annotations

from edgeexit.common.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__)
