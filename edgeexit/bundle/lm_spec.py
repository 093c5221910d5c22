"""What the manifest says of a language model: its sizes, the files of its artifacts, and what was proved of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any, TypeVar

from edgeexit.common.files import FileSpec
from edgeexit.errors import BundleError

MAX_VOCABULARY = 1 << 21
MAX_SIZE = 1 << 16
"""Of width and head_dim."""
MAX_LAYERS = 1 << 12
MAX_CONTEXT = 1 << 24
MAX_STOPS = 256
VERIFIED, APPROXIMATE = "verified", "approximate"
T = TypeVar("T")
_FILE = re.compile(r"(?:exit|kv)_(0|[1-9][0-9]*)\.onnx|exit_(0|[1-9][0-9]*)_ids\.npy")


@dataclass(frozen=True)
class LmSpec:
    """A decoder of the Llama kind, cut after some of its layers; every cut is an exit.

    >>> LmSpec(1024, 128, 12, 2, 32, 256, (4, 8, 12), None, (0,)).cache_bytes(100)
    614400
    """

    vocab: int
    width: int
    """Of the hidden states between the layers."""
    layers: int
    kv_heads: int
    head_dim: int
    context: int
    """Positions it was trained for; prompt and answer fit into them together."""
    stages: tuple[int, ...]
    """Layers finished after stage k, rising; the last is all of them."""
    bos: int | None = None
    """Put before a text; None = nothing is."""
    eos: tuple[int, ...] = ()
    """Tokens that end an answer."""
    tokenizer: FileSpec | None = None
    """A `tokenizer.json`; None = whoever runs it brings token ids."""

    def __post_init__(self) -> None:
        """Raises: BundleError for sizes that cannot be, or beyond the limits of the format."""
        for name, most in _SIZES.items():
            _whole(getattr(self, name), name, 1, most)
        rising = all(type(n) is int for n in self.stages) and list(self.stages) == sorted({*self.stages})
        if not rising or not self.stages or self.stages[0] < 1 or self.stages[-1] != self.layers:
            raise BundleError(
                f"stages: {list(self.stages)!r:.60}; expected layer counts that rise from at least 1 to {self.layers}"
            )
        if self.bos is not None:
            _whole(self.bos, "bos", 0, self.vocab - 1)
        if len(self.eos) > MAX_STOPS or len({*self.eos}) != len(self.eos):
            raise BundleError(f"eos: {len(self.eos)} tokens; expected up to {MAX_STOPS}, none twice")
        for token in self.eos:
            _whole(token, "eos", 0, self.vocab - 1)

    def layers_of(self, stage: int) -> range:
        """Numbers of the layers that stage k runs."""
        return range(self.stages[stage - 1] if stage else 0, self.stages[stage])

    def cache_bytes(self, positions: int) -> int:
        """Memory of the keys and values, float32, of so many positions."""
        return 2 * 4 * self.layers * self.kv_heads * self.head_dim * positions

    def to_dict(self) -> dict[str, Any]:
        """As the manifest has it; `from_dict` reads it back."""
        return {**asdict(self), "stages": list(self.stages), "eos": list(self.eos)}

    @classmethod
    def from_dict(cls, data: Any, at: str = "lm") -> LmSpec:
        """Read what may be hostile.

        Raises:
            BundleError: a field is missing, unknown, of another type or out of its bounds.
        """
        found = _fields(data, cls, at, optional=("bos", "eos", "tokenizer"))
        for name, most in (("stages", MAX_LAYERS), ("eos", MAX_STOPS)):
            value = found.get(name, [])
            if not isinstance(value, list) or len(value) > most:
                raise BundleError(f"{at}.{name}: expected a list of up to {most} whole numbers, found {value!r:.60}")
            found[name] = tuple(value)
            if not all(type(n) is int for n in value):
                raise BundleError(f"{at}.{name}: expected whole numbers, found {value!r:.60}")
        if found.get("tokenizer") is not None:
            found["tokenizer"] = FileSpec.from_dict(found["tokenizer"], f"{at}.tokenizer")
        return _made(lambda: cls(**found), at)


@dataclass(frozen=True)
class LmProof:
    """Whether tokens that go through an artifact together get the logits that they get one by one.

    Measured on real text when it was exported, for every number of tokens from 2 to `block`, the first layers one by
    one and the rest together included. Speculation gives the text of plain decoding only where they do.
    """

    lossless: str
    """`verified`: no largest logit changed its place, no logit moved by more than `tolerance`; else `approximate`."""
    tokens: int
    """Positions compared."""
    block: int
    """The most tokens that went through together; nothing is said of more."""
    max_difference: float
    """The largest difference of a logit."""
    flips: int
    """Positions whose largest logit was another one."""
    tolerance: float
    """What `max_difference` was allowed to be."""

    def __post_init__(self) -> None:
        """Raises: BundleError for numbers that cannot be, or for a word that they do not bear out."""
        _whole(self.tokens, "tokens", 1, 1 << 40)
        _whole(self.block, "block", 2, MAX_CONTEXT)
        _whole(self.flips, "flips", 0, self.tokens)
        for name in ("max_difference", "tolerance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
                raise BundleError(f"{name}: expected a number of at least 0, found {value!r:.60}")
        if self.lossless != (right := self.word(self.max_difference, self.flips, self.tolerance)):
            raise BundleError(
                f"lossless: {self.lossless!r:.40}, but {self.flips} flips and a difference of "
                f"{self.max_difference:.3g} (tolerance {self.tolerance:.3g}) make it {right!r}"
            )

    @staticmethod
    def word(max_difference: float, flips: int, tolerance: float) -> str:
        """What may be said of such numbers."""
        return VERIFIED if flips == 0 and max_difference <= tolerance else APPROXIMATE

    @property
    def verified(self) -> bool:
        """Whether the word lossless may be used, for up to `block` tokens at a time."""
        return self.lossless == VERIFIED

    def to_dict(self) -> dict[str, Any]:
        """As the manifest has it; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any, at: str = "proof") -> LmProof:
        """Read what may be hostile.

        Raises:
            BundleError: a field is missing, unknown, of another type out of its bounds, or the word is not borne out.
        """
        found = _fields(data, cls, at)
        return _made(lambda: cls(**found), at)


def proved(proof: LmProof | None, tokens: int) -> bool | None:
    """Whether so many tokens together were shown to get the logits of one by one; None = nobody looked."""
    if proof is None or (proof.verified and tokens > proof.block):
        return None
    return proof.verified


def unproved(proof: LmProof | None, tokens: int) -> str:
    """Why so many tokens together are not known to give plain decoding's text, and what to do about it."""
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
    """The files of a decoder artifact by what they do; in the manifest they are found by their names."""

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
    def of(cls, models: Sequence[FileSpec], data: Sequence[FileSpec]) -> DecoderFiles:
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


_SIZES = {
    "vocab": MAX_VOCABULARY, "width": MAX_SIZE, "layers": MAX_LAYERS, "kv_heads": MAX_LAYERS, "head_dim": MAX_SIZE,
    "context": MAX_CONTEXT,
}  # fmt: skip


def _whole(value: Any, name: str, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise BundleError(f"{name}: expected a whole number from {least} to {most}, found {value!r:.60}")


def _fields(data: Any, kind: type[Any], at: str, optional: Sequence[str] = ()) -> dict[str, Any]:
    """The object's fields: all that the class has, and no others, for they might change what is computed."""
    if not isinstance(data, Mapping):
        raise BundleError(f"{at}: expected an object, found {type(data).__name__}")
    names = [f.name for f in fields(kind)]
    if lacking := [n for n in names if n not in data and n not in optional]:
        raise BundleError(f"{at}.{lacking[0]}: missing")
    if strange := [n for n in data if n not in names]:
        raise BundleError(f"{at}: unknown field {strange[0]!r:.60}; known: {', '.join(names)}")
    return dict(data)


def _made(make: Callable[[], T], at: str) -> T:
    try:
        return make()
    except BundleError as e:
        raise BundleError(f"{at}.{e}") from e
