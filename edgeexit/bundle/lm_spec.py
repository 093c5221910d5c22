"""Sections of the manifest about a language model: its sizes, the files of its artifacts, lossless speculation."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from edgeexit.bundle.file_spec import FileSpec
from edgeexit.common.kinds import Number, OneOf, Whole
from edgeexit.common.records import CheckedRecord, NotRequired, Size
from edgeexit.errors import BundleError

MAX_VOCABULARY = 1 << 21
MAX_SIZE = 1 << 16
"""Of width and head_dim."""
MAX_LAYERS = 1 << 12
MAX_CONTEXT = 1 << 24
MAX_STOPS = 256
VERIFIED, APPROXIMATE = "verified", "approximate"
_FILE = re.compile(r"(?:exit|kv)_(0|[1-9][0-9]*)\.onnx|exit_(0|[1-9][0-9]*)_ids\.npy")
_Layers = Annotated[int, Whole(1, MAX_LAYERS)]
_Width = Annotated[int, Whole(1, MAX_SIZE)]
_Token = Annotated[int, Whole(0, MAX_VOCABULARY - 1)]
_Difference = Annotated[float, Number(0, 1e30)]


@dataclass(frozen=True)
class LmSpec(CheckedRecord, title="lm", error=BundleError):
    """A decoder of the Llama kind, cut after some of its layers; every cut is an exit.

    >>> LmSpec(1024, 128, 12, 2, 32, 256, (4, 8, 12), None, (0,)).cache_bytes(100)
    614400

    Raises:
        BundleError: sizes beyond the limits of the format, or that do not fit each other.
    """

    vocab: Annotated[int, Whole(1, MAX_VOCABULARY)]
    """Number of tokens, as many as the last exit has classes."""
    width: _Width
    """Of the hidden states between the layers."""
    layers: _Layers
    """Number of layers."""
    kv_heads: _Layers
    """Keys and values of one layer and position are `(kv_heads, head_dim)` each."""
    head_dim: _Width
    """See `kv_heads`."""
    context: Annotated[int, Whole(1, MAX_CONTEXT)]
    """Positions for prompt and answer together."""
    stages: Annotated[tuple[_Layers, ...], Size(1, 256, rising=True)]
    """Layers finished after stage k, one number per exit, rising; the last is `layers`."""
    bos: NotRequired[_Token | None] = None
    """Token put before a text; None = none."""
    eos: NotRequired[Annotated[tuple[_Token, ...], Size(0, MAX_STOPS, unique=True)]] = ()
    """Tokens that end an answer; missing = none does."""
    tokenizer: NotRequired[FileSpec | None] = None
    """A `tokenizer.json`; None = the caller brings token ids."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages[-1] != self.layers:
            raise BundleError(f"stages: expected the last to be all {self.layers} layers, found {self.stages[-1]}")
        for name, tokens in (("bos", () if self.bos is None else (self.bos,)), ("eos", self.eos)):
            if tokens and max(tokens) >= self.vocab:
                raise BundleError(f"{name}: expected a token from 0 to {self.vocab - 1}, found {max(tokens)}")

    def layers_of(self, stage: int) -> range:
        """Numbers of the layers that stage k runs."""
        return range(self.stages[stage - 1] if stage else 0, self.stages[stage])

    def cache_bytes(self, positions: int) -> int:
        """Memory of the keys and values, float32, of so many positions."""
        return 2 * 4 * self.layers * self.kv_heads * self.head_dim * positions


@dataclass(frozen=True)
class LmProof(CheckedRecord, title="proof", error=BundleError):
    """Whether tokens that go through an artifact together get the logits that they get one by one.

    Measured on real text when it was exported, for every number of tokens from 2 to `block`, the first layers one by
    one and the rest together included. Speculation gives the text of plain decoding only where they do.

    Raises:
        BundleError: a field that is not what it should be, or a word that the numbers do not support.
    """

    lossless: Annotated[str, OneOf(VERIFIED, APPROXIMATE)]
    """verified exactly where `flips` is 0 and `max_difference` is not above `tolerance`."""
    tokens: Annotated[int, Whole(1, 1 << 40)]
    """Positions compared."""
    block: Annotated[int, Whole(2, MAX_CONTEXT)]
    """Largest number of tokens that went through together; more were not tested."""
    max_difference: _Difference
    """Largest difference of a logit."""
    flips: Annotated[int, Whole(0, 1 << 40)]
    """Positions whose largest logit was another one; up to `tokens`."""
    tolerance: _Difference
    """Largest allowed `max_difference`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flips > self.tokens:
            raise BundleError(f"flips: expected a whole number from 0 to {self.tokens}, found {self.flips}")
        if self.lossless != (right := self.word(self.max_difference, self.flips, self.tolerance)):
            raise BundleError(
                f"lossless: {self.lossless!r:.40}, but {self.flips} flips and a difference of "
                f"{self.max_difference:.3g} (tolerance {self.tolerance:.3g}) make it {right!r}"
            )

    @staticmethod
    def word(max_difference: float, flips: int, tolerance: float) -> str:
        """The word for such numbers."""
        return VERIFIED if flips == 0 and max_difference <= tolerance else APPROXIMATE

    @property
    def verified(self) -> bool:
        """Whether speculation is lossless for up to `block` tokens at a time."""
        return self.lossless == VERIFIED


def proved(proof: LmProof | None, tokens: int) -> bool | None:
    """Whether so many tokens together get the logits of one by one; None = not tested."""
    if proof is None or (proof.verified and tokens > proof.block):
        return None
    return proof.verified


def unproved(proof: LmProof | None, tokens: int) -> str:
    """Why so many tokens together may not give the text of plain decoding, and what to do about it."""
    if proof is None:
        return f"nothing was compared on export; to have it, export again with --text FILE --block {tokens}"
    if not proof.verified:
        return (
            f"{proof.flips} of {proof.tokens} tokens changed on export when several went through together; where that "
            "matters use a precision that is verified (fp32, int4-float)"
        )
    return (
        f"up to {proof.block} tokens together were compared on export, this takes {tokens}; to have it, export again "
        f"with --block {tokens}"
    )


@dataclass(frozen=True)
class DecoderFiles:
    """The files of a decoder artifact by their roles, which their names in the manifest decide."""

    stages: tuple[FileSpec, ...]
    """`stage_<k>.onnx`."""
    head: FileSpec
    """`head.onnx`: hidden states -> logits; every exit without its own uses it."""
    positions: FileSpec
    """`positions.onnx`: positions -> cosines and sines."""
    embedding: FileSpec
    """`embedding.npy`, `(vocab, width)`."""
    exits: tuple[FileSpec | None, ...]
    """`exit_<k>.onnx`: hidden states after stage k -> its logits."""
    ids: tuple[FileSpec | None, ...]
    """`exit_<k>_ids.npy` int64: the tokens that logits of a short list stand for; None = all, in their order."""
    keys_values: tuple[FileSpec | None, ...]
    """`kv_<k>.onnx`: hidden states -> keys and values of stage k's layers, without computing the layers."""

    @classmethod
    def of(cls, models: Sequence[FileSpec], data: Sequence[FileSpec]) -> "DecoderFiles":
        """Sort an artifact's files.

        Args:
            models: one per stage.
            data: the others; what is not named above is passed over (weights that model files share).

        Raises:
            BundleError: head, positions or embedding is missing, a name stands twice, a number is no stage's, or a list
                of tokens has no exit.
        """
        named = {PurePosixPath(f.path).name: f for f in data}
        if twice := [n for n, times in Counter(PurePosixPath(f.path).name for f in data).items() if times > 1]:
            raise BundleError(f"two files {twice[0]!r:.60}")
        if lacking := [n for n in ("head.onnx", "positions.onnx", "embedding.npy") if n not in named]:
            raise BundleError(f"a decoder has a {lacking[0]}, found {', '.join(named) or 'nothing'!r:.120}")
        count = len(models)
        for name in named:
            match = _FILE.fullmatch(name)
            if match is None:
                continue
            most = count - (1 if name.startswith("kv_") else 2)  # the last exit's head is head.onnx
            if len(name) > 40 or int(match[1] or match[2]) > most:
                what = "stages" if name.startswith("kv_") else "early exits"
                raise BundleError(
                    f"{name:.60}: there are {what} 0 to {most}" if most >= 0 else f"{name:.60}: no {what}"
                )
        exits, ids, rows = (
            tuple(named.get(n.format(k)) for k in range(count))
            for n in ("exit_{}.onnx", "exit_{}_ids.npy", "kv_{}.onnx")
        )
        if lost := [k for k in range(count) if ids[k] is not None and exits[k] is None]:
            raise BundleError(f"exit_{lost[0]}_ids.npy without exit_{lost[0]}.onnx")
        return cls(tuple(models), named["head.onnx"], named["positions.onnx"], named["embedding.npy"], exits, ids, rows)
