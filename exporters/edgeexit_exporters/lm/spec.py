"""Export spec of a language model: stages, precisions, heads and proof, validated once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeexit.errors import DataError, ModelError
from edgeexit.lm import proof
from edgeexit_exporters.lm.quantize import PRECISIONS


@dataclass(frozen=True)
class LmExportSpec:
    """What to export of a language model and how; the names are those of `edgeexit export-lm`.

    Raises:
        ModelError: an unknown word, or options that exclude each other.
    """

    stages: tuple[int, ...] | None = None
    """Layers after which exits lie; the last is always one. None = four stages of about the same length."""
    precisions: tuple[str, ...] = ("fp32",)
    maps: bool = False
    """Fit a linear map before the head of every early exit (Jump to Conclusions, arXiv 2303.09435)."""
    heads: Path | None = None
    """Trained maps, as `edgeexit_models.lm.save_maps` writes them, instead."""
    shortlist: int | None = None
    """Let early exits choose from so many of the text's most frequent tokens; None = from all."""
    keys_values: bool = True
    """Also write stand-ins for skipped stages."""
    block: int = 5
    """The most tokens that the proof lets through together."""
    proof_tokens: int = 128
    tolerance: float = proof.TOLERANCE
    """Of a logit, for `verified`."""

    def __post_init__(self) -> None:
        if unknown := [p for p in self.precisions if p not in PRECISIONS]:
            raise ModelError(f"unknown precision {unknown[0]!r}; known: {', '.join(PRECISIONS)}")
        if not self.precisions or len({*self.precisions}) < len(self.precisions):
            raise ModelError(f"precisions {', '.join(self.precisions) or 'none'}: name each once, at least one")
        if self.maps and self.heads is not None:
            raise ModelError("fitted maps or trained heads, not both")
        if not 2 <= self.block <= proof.PIECE:
            raise ModelError(f"a block of {self.block} tokens: expected 2 to {proof.PIECE}")
        if self.proof_tokens < self.block or not 0 <= self.tolerance < 1e30:
            raise ModelError("a proof needs at least a block of tokens, and a tolerance of at least 0")

    def check_text(self, given: bool) -> None:
        """Refuse missing text before minutes of work.

        Raises:
            DataError: what is asked for is made from text, and there is none.
        """
        for asked, option in ((self.maps, "--maps"), (self.shortlist is not None, "--shortlist")):
            if asked and not given:
                raise DataError(f"{option} is made from text: give --text FILE")
