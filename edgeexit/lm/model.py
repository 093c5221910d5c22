"""Language model of a bundle's decoder artifact: embedding, stages, heads. Sequences are in `session`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.lm_spec import LmProof, LmSpec, proved
from edgeexit.engine.backends import Runnable
from edgeexit.errors import BundleError, DataError
from edgeexit.lm.cache import Cache
from edgeexit.lm.positions import POSITION_INPUTS, Positions

Array = NDArray[Any]


@dataclass(frozen=True)
class DecoderRunnables:
    """Loaded parts of a decoder artifact."""

    stages: Sequence[Runnable]
    head: Runnable
    positions: Runnable
    embedding: Array
    """`(vocab, width)` float32 or float16; may be mapped from its file."""
    exits: Mapping[int, Runnable] = field(default_factory=dict)
    """Separate heads, by stage."""
    ids: Mapping[int, Array] = field(default_factory=dict)
    """`(S,)` token ids of the logits of an exit's short list, by stage."""
    keys_values: Mapping[int, Runnable] = field(default_factory=dict)
    """Key and value products alone, by stage."""


class NonFiniteLogits(DataError):
    """Logits without a largest one: NaN or infinite."""


class LanguageModel:
    """Runs the parts of one decoder; any number of sequences may use it in turn."""

    def __init__(
        self,
        spec: LmSpec,
        parts: DecoderRunnables,
        *,
        name: str = "model",
        artifact: str = "",
        proof: LmProof | None = None,
        tokenizer: Path | None = None,
        engine: str | None = None,
        threads: int = 1,
    ) -> None:
        """Check that the parts fit the spec.

        Raises:
            BundleError: an embedding of another shape, files with other inputs or outputs, impossible ids.
        """
        self.spec, self.parts, self.name, self.artifact = spec, parts, name, artifact
        self.proof, self.tokenizer, self.engine, self.threads = proof, tokenizer, engine, threads
        self.count = len(spec.stages)
        """Stages, which are the exits."""
        self.bundle: Any = None
        """Bundle that it was loaded from; a reference keeps a ``.zip``'s unpacked files on disk."""
        _check_embedding(spec, parts.embedding)
        self._stages = [_Bound(m, f"stage_{k}", _stage_inputs(spec, k), _stage_outputs(spec, k))
                        for k, m in enumerate(parts.stages)]  # fmt: skip
        if len(self._stages) != self.count:
            raise BundleError(f"{name}: {len(self._stages)} stage files for {self.count} stages")
        self._head = _Bound(parts.head, "head", ["hidden"], ["logits"])
        self._exits = {k: _Bound(m, f"exit_{k}", ["hidden"], ["logits"]) for k, m in parts.exits.items()}
        self._fill = {k: _Bound(m, f"kv_{k}", ["hidden", *POSITION_INPUTS[:2]], _stage_outputs(spec, k)[1:])
                      for k, m in parts.keys_values.items()}  # fmt: skip
        self._turn = _Bound(parts.positions, "positions", ["positions"], [*POSITION_INPUTS[:2]])
        self.positions = Positions(self._turn, spec)
        for k, ids in parts.ids.items():
            _check_ids(spec, k, ids)

    def try_out(self) -> None:
        """Run one token through every part, so that files that do not fit are reported before an answer begins.

        Raises:
            BundleError: a part refuses it, or returns another shape or non-finite numbers.
        """
        spec = self.spec
        rows = (1, 1, spec.kv_heads, spec.head_dim)
        cache = Cache(spec)
        _tried("positions", self._turn, [np.zeros(1, np.int64)], [(1, spec.head_dim)] * 2)
        hidden, turn = self.embed([0]), self.positions.turn(0, 1)
        for k in range(self.count):
            new = [rows] * (2 * len(spec.layers_of(k)))
            past = cache.pages(k, 1)
            values = [hidden, *self.positions.of(0, 1, len(past[0])), *past]
            outputs = _tried(f"stage {k}", self._stages[k], values, [hidden.shape, *new])
            if k in self._fill:
                _tried(f"kv_{k}", self._fill[k], [hidden, *turn], new)
            hidden = outputs[0]
            if k in self._exits:
                ids = self.parts.ids.get(k)
                _tried(f"exit_{k}", self._exits[k], [hidden], [(1, 1, spec.vocab if ids is None else len(ids))])
        _tried("head", self._head, [hidden], [(1, 1, spec.vocab)])

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises: DataError for a token that the model does not know."""
        for token in ids:
            if not 0 <= token < self.spec.vocab:
                raise DataError(f"token id {token}: this model knows 0..{self.spec.vocab - 1}")

    def check_exit(self, k: int, *, last: bool = False) -> None:
        """Raises: DataError for an exit that is not there; `last`: the last one is allowed."""
        most = self.count - (1 if last else 2)
        if not 0 <= k <= most:
            what = "exits" if last else "early exits"
            known = f"{what} 0..{most}" if most >= 0 else "no early exit"
            raise DataError(f"exit {k}: this model has {known} (after layers {', '.join(map(str, self.spec.stages))})")

    def embed(self, ids: Sequence[int] | Array) -> Array:
        """Token ids `(T,)` or `(B, T)` -> hidden states `(B, T, width)` for stage 0."""
        return np.asarray(self.parts.embedding[np.atleast_2d(np.asarray(ids, np.intp))], np.float32)

    def run_stage(self, k: int, hidden: Array, cache: Cache) -> Array:
        """Stage `k` over the next T positions of the cache's B sequences.

        Args:
            k: the stage.
            hidden: `(B, T, width)`, output of stage k-1 for them.
            cache: gets the new rows.

        Returns:
            `(B, T, width)`.
        """
        past = cache.pages(k, hidden.shape[1])
        inputs = self.positions.of(cache.lengths[k], hidden.shape[1], len(past[0]), cache.padding)
        hidden_out, *rows = self._stages[k]([hidden, *inputs, *past])
        cache.put(k, rows)
        return hidden_out

    def fill(self, k: int, hidden: Array, cache: Cache) -> None:
        """Stand-in keys and values of stage `k` for the next positions, from hidden states of an earlier exit.

        Raises:
            BundleError: the artifact has no such part.
        """
        if k not in self._fill:
            raise BundleError(
                f"{self.name}: artifact {self.artifact} has no kv_{k}.onnx to pass an early exit's state on: "
                "repair the cache instead (--repair), or export with kv parts"
            )
        turn = self.positions.turn(cache.lengths[k], hidden.shape[1], cache.padding)
        cache.put(k, self._fill[k]([hidden, *turn]))

    def logits(self, hidden: Array) -> Array:
        """The full head: `(1, T, width)` -> `(T, vocab)`.

        Raises:
            NonFiniteLogits: a largest one is NaN or infinite; -inf for tokens that cannot come is fine.
        """
        return self._checked(self._head([hidden])[0][0], "head.onnx")

    def exit_logits(self, k: int, hidden: Array) -> Array:
        """Exit k's head: `(1, T, width)` -> `(T, vocab)`, or `(T, S)` where it has a short list; see `exit_ids`.

        Raises:
            NonFiniteLogits: as `logits`.
        """
        head = self._exits.get(k)
        logits = (self._head if head is None else head)([hidden])[0][0]
        return self._checked(logits, f"exit {k} ({'head' if head is None else f'exit_{k}'}.onnx)")

    def _checked(self, logits: Array, what: str) -> Array:
        top = logits.max(-1)  # NaN if one is NaN
        if not np.isfinite(top).all():
            kind = "NaN" if np.isnan(top).any() else "infinite"
            raise NonFiniteLogits(f"{self.name}, artifact {self.artifact or 'unnamed'}: {what} gives {kind} logits")
        return logits

    def exit_ids(self, k: int) -> Array | None:
        """The tokens of exit k's logits `(S,)`; None = all, in their order."""
        return self.parts.ids.get(k)

    def guesses(self, k: int, logits: Array) -> Array:
        """The first guess `(T,)` of exit k's logits, as token ids."""
        best: Array = logits.argmax(-1)
        ids = self.parts.ids.get(k)
        return best if ids is None else ids[best]

    def proved(self, tokens: int) -> bool | None:
        """Proof that so many tokens together get the logits of one by one; None = not tested."""
        return proved(self.proof, tokens)


class _Bound:
    """Calls an engine's model with values in our order, independent of the file's."""

    def __init__(self, model: Runnable, what: str, inputs: list[str], outputs: list[str]) -> None:
        for kind, wanted, has in (("inputs", inputs, model.inputs), ("outputs", outputs, model.outputs)):
            if sorted(wanted) != sorted(has):
                odd = sorted({*wanted} ^ {*has})
                raise BundleError(
                    f"{what}: its {kind} are not those of a decoder: {', '.join(odd[:4])}; export the bundle again"
                )
        self._run = model.run
        self._in = [inputs.index(n) for n in model.inputs]
        self._out = [model.outputs.index(n) for n in outputs]
        self._plain = self._in == sorted(self._in) and self._out == sorted(self._out)

    def __call__(self, values: Sequence[Array]) -> list[Array]:
        if self._plain:
            return self._run(values)
        outputs = self._run([values[i] for i in self._in])
        return [outputs[i] for i in self._out]


def _tried(what: str, part: _Bound, values: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    try:
        outputs = part(values)
    except DataError as e:
        raise BundleError(f"{what} does not fit this model's sizes: {e}") from e
    for array, shape in zip(outputs, shapes, strict=True):
        if array.shape != shape or array.dtype != np.float32:
            raise BundleError(f"{what} gives {array.dtype} {array.shape}, expected float32 {shape}")
        if not np.isfinite(array).all():
            raise BundleError(
                f"{what} gives NaN or infinity, expected finite numbers: export the bundle again from sound weights"
            )
    return outputs


def _stage_inputs(spec: LmSpec, k: int) -> list[str]:
    past = [f"past_key_values.{i}.{what}" for i in spec.layers_of(k) for what in ("key", "value")]
    return ["hidden", *POSITION_INPUTS, *past]


def _stage_outputs(spec: LmSpec, k: int) -> list[str]:
    return ["hidden_out", *(f"present.{i}.{what}" for i in spec.layers_of(k) for what in ("key", "value"))]


def _check_embedding(spec: LmSpec, table: Array) -> None:
    if table.dtype not in (np.float32, np.float16) or table.shape != (spec.vocab, spec.width):
        raise BundleError(
            f"embedding: expected float32 or float16 ({spec.vocab}, {spec.width}), found {table.dtype} {table.shape}"
        )


def _check_ids(spec: LmSpec, k: int, ids: Array) -> None:
    if ids.dtype != np.int64 or ids.ndim != 1 or not len(ids) or ids.min() < 0 or ids.max() >= spec.vocab:
        raise BundleError(f"exit_{k}_ids: expected int64 tokens 0..{spec.vocab - 1}, found {ids.dtype} {ids.shape}")
