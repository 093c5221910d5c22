"""The manifest as JSON, and reading it from JSON that may be hostile.

`docs/bundle-format.md` is the specification and `edgeexit/bundle.schema.json` its JSON Schema; this module
checks what the schema checks (without a library, for the device) and that the parts fit each other.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from edgeexit.errors import BundleError
from edgeexit.lm.spec import DecoderFiles, LmProof, LmSpec
from edgeexit.manifest import (
    DTYPES,
    LAYOUTS,
    MAX_EXITS,
    MAX_MEMBERS,
    MAX_STATE,
    SCHEMA,
    Artifact,
    Check,
    ExitSpec,
    FileSpec,
    Manifest,
    Port,
    StageSpec,
    StateSpec,
    TensorSpec,
)
from edgeexit.scores import NAMES

if TYPE_CHECKING:
    from edgeexit.speech.spec import SpeechSpec

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

T = TypeVar("T")


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON-ready data; `from_json` reads it back."""

    def tensor(t: TensorSpec, batch: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {"name": t.name, "dtype": t.dtype, "shape": list(t.shape)}
        return {**found, "batch_axis": t.batch_axis} if batch else found

    def file(f: FileSpec | None) -> dict[str, Any] | None:
        return None if f is None else {"path": f.path, "sha256": f.sha256, "bytes": f.bytes}

    def check(c: Check | None) -> dict[str, Any] | None:
        return None if c is None else {"tolerance": c.tolerance, "max_error": list(c.max_error), "inputs": c.inputs}

    def port(p: Port) -> dict[str, Any]:
        order = None if p.order is None else list(p.order)
        called = {} if p.called is None else {"called": p.called}
        return {
            "name": p.name,
            "dtype": p.dtype,
            "order": order,
            "scale": p.scale,
            "zero_point": p.zero_point,
            **called,
        }

    return {
        "format": "edgeexit",
        "schema": SCHEMA,
        "name": manifest.name,
        "task": manifest.task,
        "batch": manifest.batch,
        "inputs": [tensor(t) for t in manifest.inputs],
        "exits": [
            {
                "name": e.name,
                "outputs": [tensor(t) for t in e.outputs],
                "kind": e.kind,
                "macs": e.macs,
                "prefix_macs": e.prefix_macs,
                "members": e.members,
                "uncertainty": e.uncertainty,
                "learned": e.learned,
                **({"lengths": e.lengths} if e.lengths is not None else {}),
            }
            for e in manifest.exits
        ],
        "stages": [
            {
                "inputs": list(s.inputs),
                "outputs": list(s.outputs),
                "macs": s.macs,
                "parameters": s.parameters,
                "weight_bytes": s.weight_bytes,
                "cut_bytes": s.cut_bytes,
                "states": [{"input": tensor(t.input), "output": t.output} for t in s.states],
            }
            for s in manifest.stages
        ],
        "cuts": [tensor(t, batch=True) for t in manifest.cuts],
        "artifacts": [
            {
                "name": a.name,
                "format": a.format,
                "layout": a.layout,
                "precision": a.precision,
                "score": a.score,
                "temperatures": list(a.temperatures),
                "models": [file(f) for f in a.models],
                "data": [file(f) for f in a.data],
                "vectors": file(a.vectors),
                "calibration": file(a.calibration),
                "check": check(a.check),
                **({"batch": a.batch} if a.batch is not None else {}),
                **({"cuts": [tensor(t, batch=True) for t in a.cuts]} if a.cuts is not None else {}),
                **({"ports": [port(p) for p in a.ports]} if a.ports else {}),
                **({"sizes": {axis: list(s) for axis, s in a.sizes.items()}} if a.sizes else {}),
                **({"proof": a.proof.to_dict()} if a.proof is not None else {}),
            }
            for a in manifest.artifacts
        ],
        "policies": {name: file(f) for name, f in manifest.policies.items()},
        "labels": None if manifest.labels is None else list(manifest.labels),
        "provenance": dict(manifest.provenance),
        **({"speech": manifest.speech.to_dict()} if manifest.speech is not None else {}),
        **({"min_sizes": dict(manifest.min_sizes)} if manifest.min_sizes else {}),
        **({"lm": manifest.lm.to_dict()} if manifest.lm is not None else {}),
    }


class _Reader:
    """A JSON object whose fields are taken one by one; what is asked for must be there and of its type."""

    def __init__(self, data: Any, at: str) -> None:
        if not isinstance(data, dict):
            raise BundleError(f"{at}: expected an object, found {type(data).__name__}")
        self.data, self.at = data, at

    def fail(self, key: str, expected: str) -> BundleError:
        found = repr(self.data.get(key, "nothing"))
        return BundleError(f"{self.at}.{key}: expected {expected}, found {found[:60]}")

    def text(self, key: str, pattern: re.Pattern[str] | None = None, among: tuple[str, ...] = ()) -> str:
        value = _text(self.data.get(key), f"{self.at}.{key}")
        if pattern is not None and not pattern.fullmatch(value):
            raise self.fail(key, "letters, digits, '.', '_' and '-', confined to the bundle")
        if among and value not in among:
            raise self.fail(key, f"one of {', '.join(among)}")
        return value

    def count(self, key: str, most: int = 1 << 62) -> int:
        value = self.data.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self.fail(key, f"a whole number from 0 to {most}")
        return value

    def count_or_none(self, key: str) -> int | None:
        if key in self.data and self.data[key] is None:
            return None
        return self.count(key)

    def optional(self, key: str, read: Callable[[Any, str], T]) -> T | None:
        value = self.data.get(key)
        return None if value is None else read(value, f"{self.at}.{key}")

    def list(self, key: str, read: Callable[[Any, str], T], least: int = 0, most: int = 4096) -> tuple[T, ...]:
        value = self.data.get(key)
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise self.fail(key, f"a list of {least} to {most}")
        return tuple(read(v, f"{self.at}.{key}[{i}]") for i, v in enumerate(value))


def _number(value: Any, at: str) -> float:
    # abs() and not isfinite(): JSON has whole numbers that no float can hold
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise BundleError(f"{at}: expected a number, found {value!r:.60}")
    return float(value)


def _positive(value: Any, at: str) -> float:
    if (found := _number(value, at)) <= 0:
        raise BundleError(f"{at}: expected a positive number, found {value!r:.60}")
    return found


def _not_negative(value: Any, at: str) -> float:
    if (found := _number(value, at)) < 0:
        raise BundleError(f"{at}: expected a number of at least 0, found {value!r:.60}")
    return found


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 512 or _UNPRINTABLE.search(value):
        raise BundleError(f"{at}: expected text of 1 to 512 printable characters, found {value!r:.60}")
    return value


def _axis(value: Any, at: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BundleError(f"{at}: expected a size or the name of a free axis, found {value!r:.60}")
    if isinstance(value, int) and not 0 <= value <= 1 << 40:
        raise BundleError(f"{at}: expected a size from 0 to 2^40, found {value!r:.60}")
    return value if isinstance(value, int) else _text(value, at)


def _tensor(value: Any, at: str) -> TensorSpec:
    r = _Reader(value, at)
    axis = r.count_or_none("batch_axis") if "batch_axis" in r.data else 0
    return TensorSpec(r.text("name"), r.text("dtype", among=DTYPES), r.list("shape", _axis, most=16), axis)


def _per_input(value: Any, at: str) -> TensorSpec:
    """A model input or an exit's output: its axis 0 counts inputs."""
    found = _tensor(value, at)
    if not found.shape or found.batch_axis != 0:
        raise BundleError(f"{at}: axis 0 of a model input or an exit's output counts inputs")
    return found


def _exit(value: Any, at: str) -> ExitSpec:
    r = _Reader(value, at)
    return ExitSpec(
        r.text("name"),
        r.list("outputs", _per_input, least=1, most=64),
        r.text("kind", among=("logits", "probs")),
        r.count_or_none("macs"),
        r.count_or_none("prefix_macs"),
        r.count("members", most=MAX_MEMBERS) if "members" in r.data else 1,
        r.optional("uncertainty", _text),
        r.optional("learned", _text),
        r.optional("lengths", _text),
    )


def _stage(value: Any, at: str) -> StageSpec:
    r = _Reader(value, at)
    return StageSpec(
        r.list("inputs", _text, least=1),
        r.list("outputs", _text, least=1),
        r.count_or_none("macs"),
        r.count("parameters"),
        r.count("weight_bytes"),
        r.count_or_none("cut_bytes"),
        r.list("states", _state) if "states" in r.data else (),
    )


def _state(value: Any, at: str) -> StateSpec:
    r = _Reader(value, at)
    found = StateSpec(_tensor(r.data.get("input"), f"{at}.input"), r.text("output"))
    if not all(isinstance(a, int) for a in found.input.shape):
        raise BundleError(f"{at}.input: a state has fixed sizes, found {list(found.input.shape)!r:.60}")
    if math.prod(a for a in found.input.shape if isinstance(a, int)) > MAX_STATE:
        raise BundleError(f"{at}.input: a state of {list(found.input.shape)!r:.60} numbers; up to {MAX_STATE} are kept")
    return found


def _min_sizes(value: Any, at: str) -> dict[str, int]:
    r = _Reader(value, at)
    if len(r.data) > 256:
        raise BundleError(f"{at}: {len(r.data)} axes; expected at most 256")
    return {_text(name, at): r.count(name, 1 << 40) for name in r.data}


def _check(value: Any, at: str) -> Check:
    r = _Reader(value, at)
    return Check(
        _not_negative(r.data.get("tolerance"), f"{at}.tolerance"),
        r.list("max_error", _not_negative, least=1, most=MAX_EXITS),
        r.count("inputs"),
    )


def _artifact(value: Any, at: str) -> Artifact:
    r = _Reader(value, at)
    return Artifact(
        r.text("name", _NAME),
        r.text("format", _NAME),
        r.text("layout", among=LAYOUTS),
        r.text("precision", _NAME),
        r.optional("score", lambda v, a: _Reader({"score": v}, a).text("score", among=NAMES)),
        r.list("temperatures", _positive, least=1, most=MAX_EXITS),
        r.list("models", FileSpec.from_dict, least=1, most=MAX_EXITS),
        r.list("data", FileSpec.from_dict),
        r.optional("vectors", FileSpec.from_dict),
        r.optional("calibration", FileSpec.from_dict),
        r.optional("check", _check),
        r.optional("batch", lambda v, a: _Reader({"batch": v}, a).text("batch", among=("one",))),
        r.optional("cuts", lambda v, a: _Reader({"cuts": v}, a).list("cuts", _tensor)),
        r.list("ports", _port, most=512) if "ports" in r.data else (),
        r.optional("sizes", _sizes) or {},
        r.optional("proof", LmProof.from_dict),
    )


def _sizes(value: Any, at: str) -> dict[str, tuple[int, ...]]:
    r = _Reader(value, at)
    if len(r.data) != 1:
        raise BundleError(f"{at}: {len(r.data)} axes; expected one")
    found = {_text(name, at): r.list(name, _axis, least=1, most=256) for name in r.data}
    sizes = next(iter(found.values()))
    whole = [s for s in sizes if isinstance(s, int) and s > 0]
    if len(whole) < len(sizes) or whole != sorted(set(whole)):
        raise BundleError(f"{at}: expected rising sizes, found {list(sizes)!r:.60}")
    return {name: tuple(whole) for name in found}


def _port(value: Any, at: str) -> Port:
    r = _Reader(value, at)
    zero_point = r.data.get("zero_point")
    if zero_point is not None and (isinstance(zero_point, bool) or not isinstance(zero_point, int)):
        raise r.fail("zero_point", "a whole number or null")
    found = Port(
        r.text("name"),
        r.text("dtype", among=DTYPES),
        r.optional("order", lambda v, a: _Reader({"order": v}, a).list("order", _place, least=1, most=16)),
        r.optional("scale", _positive),
        zero_point,
        r.optional("called", _text),
    )
    if (found.scale is None) != (zero_point is None):
        raise BundleError(f"{at}: a scale and a zero_point come together")
    if found.scale is not None and not found.dtype.startswith(("int", "uint")):
        raise BundleError(f"{at}: {found.dtype} with a scale; quantized numbers are integers")
    if found.scale is not None and not 2**-126 <= found.scale <= 2**126:
        raise r.fail("scale", "a number that float32 holds, and its inverse too")
    if zero_point is not None and not abs(zero_point) < 1 << 31:
        raise r.fail("zero_point", "a whole number that int32 holds")
    if found.order is not None and sorted(found.order) != [*range(len(found.order))]:
        raise BundleError(f"{at}.order: {list(found.order)} does not name every axis once")
    return found


def _place(value: Any, at: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 16:
        raise BundleError(f"{at}: expected an axis, found {value!r:.60}")
    return value


def from_json(data: Any, at: str = "manifest") -> Manifest:
    """Read and check a manifest.

    Args:
        data: what `json.loads` gave.
        at: name of the document, for messages.

    Raises:
        BundleError: not a manifest, of an unknown schema, or with parts that do not fit each other.
    """
    r = _Reader(data, at)
    if r.data.get("format") != "edgeexit":
        raise r.fail("format", "'edgeexit'")
    if r.data.get("schema") != SCHEMA or isinstance(r.data.get("schema"), bool):
        raise BundleError(
            f"{at}: bundle schema {r.data.get('schema')!r:.40}; this version of EdgeExit knows {SCHEMA}: "
            "export the bundle again, or install the version that wrote it"
        )
    policies = _Reader(r.data.get("policies"), f"{at}.policies")
    provenance = _Reader(r.data.get("provenance"), f"{at}.provenance").data
    for name in policies.data:
        if not _NAME.fullmatch(name):
            raise BundleError(f"{policies.at}: {name!r:.60} is not a name of letters, digits, '.', '_' and '-'")
    found = Manifest(
        r.text("name"),
        r.text("task"),
        r.text("batch", among=("dynamic", "one")),
        r.list("inputs", _per_input, least=1, most=256),
        r.list("exits", _exit, least=1, most=MAX_EXITS),
        r.list("stages", _stage, least=1, most=MAX_EXITS),
        r.list("cuts", _tensor),
        r.list("artifacts", _artifact, least=1, most=256),
        {name: FileSpec.from_dict(v, f"{policies.at}.{name}") for name, v in policies.data.items()},
        r.optional("labels", lambda v, a: _Reader({"labels": v}, a).list("labels", _text, most=1 << 20)),
        provenance,
        r.optional("speech", _speech),
        r.optional("min_sizes", _min_sizes) or {},
        lm=r.optional("lm", LmSpec.from_dict),
    )
    _check_parts(found, at)
    return found


def _speech(value: Any, at: str) -> SpeechSpec:
    from edgeexit.speech.spec import SpeechSpec  # here, so that bundles without speech do not load it

    return SpeechSpec.from_dict(value, at)


def _check_parts(m: Manifest, at: str) -> None:
    count = len(m.exits)
    if len(m.stages) != count:
        raise BundleError(f"{at}: {count} exits but {len(m.stages)} stages; every exit has its stage")
    if m.batch == "dynamic":  # where one input goes per call, no axis is ever thinned out
        for t in m.cuts:
            if t.batch_axis is not None and t.batch_axis >= len(t.shape):
                raise BundleError(f"{at}: cut {t.name!r:.60} has {len(t.shape)} axes, its batch_axis is {t.batch_axis}")
    tensors = [*m.tensors, *m.cuts]
    for what, names in (
        ("tensor", [t.name for t in tensors]),
        ("exit", [e.name for e in m.exits]),
        ("artifact", [a.name for a in m.artifacts]),
        ("file", [f.path for f in m.files]),
    ):
        twice = {n for n, times in Counter(names).items() if times > 1}
        # A tensor may be an exit's output and be carried on as well, but then the two say the same.
        if twice and not (what == "tensor" and _say_the_same(tensors, twice)):
            raise BundleError(f"{at}: {what} {sorted(twice)[0]!r:.60} stands twice")
    known = {t.name for t in m.feeds}
    if m.states and m.batch != "one":
        raise BundleError(f"{at}: a network with states takes one input per call, batch is {m.batch!r}")
    for k, (stage, e) in enumerate(zip(m.stages, m.exits, strict=True)):
        if lost := [s.output for s in stage.states if s.output not in stage.outputs]:
            raise BundleError(f"{at}: stage {k} carries {lost[0]!r:.60} on, which it does not make")
        later = {s.input.name for deeper in m.stages[k + 1 :] for s in deeper.states}
        if early := [n for n in stage.inputs if n in later]:
            raise BundleError(f"{at}: stage {k} reads {early[0]!r:.60}, a state that a later stage carries")
        if missing := [n for n in stage.inputs if n not in known]:
            raise BundleError(f"{at}: stage {k} reads {missing[0]!r:.60}, which nothing before it makes")
        if lacking := [t.name for t in e.outputs if t.name not in stage.outputs]:
            raise BundleError(f"{at}: exit {e.name!r:.60} names {lacking[0]!r:.60}, which stage {k} does not make")
        _check_outputs(e, at)
        known.update(stage.outputs)
    if len({e.lengths is None for e in m.exits}) > 1:
        raise BundleError(f"{at}: some exits have lengths and some have none")
    if strange := [n for n in m.min_sizes if not any(n in t.shape[1:] for t in m.inputs)]:
        raise BundleError(f"{at}.min_sizes: {strange[0]!r:.60} is no free axis of an input")
    described = {t.name for t in tensors}
    if strange := [n for s in m.stages for n in s.outputs if n not in described]:
        raise BundleError(f"{at}: stage output {strange[0]!r:.60} is described nowhere")
    classes = m.exits[-1].answer.shape[-1]
    if m.labels is not None and isinstance(classes, int) and len(m.labels) != classes:
        raise BundleError(f"{at}: {len(m.labels)} labels for {classes} classes")
    if m.speech is not None and isinstance(classes, int) and len(m.speech.tokens) != classes:
        raise BundleError(f"{at}: {len(m.speech.tokens)} speech tokens for {classes} classes")
    if m.lm is not None and len(m.lm.stages) != count:
        raise BundleError(f"{at}: a language model of {len(m.lm.stages)} stages with {count} exits")
    if m.lm is not None and m.lm.vocab != classes:
        raise BundleError(f"{at}: a language model of {m.lm.vocab} tokens answers with {classes!r:.40} classes")
    for a in m.artifacts:
        expected = count if a.layout in ("chain", "prefix", "decoder") else 1
        if len(a.models) != expected and (a.layout != "chain" or len(a.models) != 1 or a.format == "onnx"):
            raise BundleError(f"{at}: artifact {a.name!r}: {len(a.models)} models, layout {a.layout} needs {expected}")
        if len(a.temperatures) != count:
            raise BundleError(f"{at}: artifact {a.name!r}: {len(a.temperatures)} temperatures for {count} exits")
        if a.check is not None and len(a.check.max_error) != count:
            raise BundleError(f"{at}: artifact {a.name!r}: {len(a.check.max_error)} errors for {count} exits")
        if (a.layout == "fused") != (a.score is not None):
            raise BundleError(f"{at}: artifact {a.name!r}: a fused graph, and no other, names its score")
        _check_ports(a, m, at)
        if a.sizes:
            _check_sizes(a, m, at)
        _check_decoder(a, m, at)
        if a.score is not None and (lacking := [e.name for e in m.exits if not e.gives(a.score)]):
            raise BundleError(f"{at}: artifact {a.name!r}: exit {lacking[0]!r:.60} gives no score {a.score!r}")


def _check_sizes(a: Artifact, m: Manifest, at: str) -> None:
    if a.layout != "chain" or len(a.models) != 1 or a.batch != "one" or m.exits[0].lengths is None:
        raise BundleError(
            f"{at}: artifact {a.name!r}: sizes are of a chain in one file, one input per call, of exits with lengths"
        )
    if strange := [n for n in a.sizes if not any(n in t.shape[1:] for t in m.inputs)]:
        raise BundleError(f"{at}: artifact {a.name!r}: sizes of {strange[0]!r:.60}, which is no free axis of an input")


def _check_decoder(a: Artifact, m: Manifest, at: str) -> None:
    if a.layout != "decoder":
        if a.proof is not None:
            raise BundleError(f"{at}: artifact {a.name!r}: a proof is of a decoder, layout is {a.layout}")
        return
    if m.lm is None:
        raise BundleError(f"{at}: artifact {a.name!r}: a decoder belongs to a language model, and there is no `lm`")
    try:
        DecoderFiles.of(a.models, a.data)
    except BundleError as e:
        raise BundleError(f"{at}: artifact {a.name!r}: {e}") from e


def _check_ports(a: Artifact, m: Manifest, at: str) -> None:
    own = {t.name: t for t in m.tensors}
    if twice := [n for n, times in Counter(p.name for p in a.ports).items() if times > 1]:
        raise BundleError(f"{at}: artifact {a.name!r}: port {twice[0]!r:.60} stands twice")
    for p in a.ports:
        if p.name not in own:
            raise BundleError(f"{at}: artifact {a.name!r}: port {p.name!r:.60} is no input, state or exit's tensor")
        if p.order is not None and (len(p.order) != len(own[p.name].shape) or p.order[0] != 0):
            raise BundleError(f"{at}: artifact {a.name!r}: port {p.name!r:.60} orders {len(p.order)} axes wrongly")


def _check_outputs(e: ExitSpec, at: str) -> None:
    """Every output has its part: the answer first, then uncertainty of several heads, learned score and lengths."""
    parts = [e.answer.name, *(n for n in (e.uncertainty, e.learned, e.lengths) if n is not None)]
    if [t.name for t in e.outputs] != parts:
        found = ", ".join(t.name for t in e.outputs)
        raise BundleError(
            f"{at}: exit {e.name!r:.60}: outputs {found:.120} are not answer, uncertainty, learned score, lengths"
        )
    if any((t.dtype, len(t.shape)) != ("float32", 1) for t in e.outputs[1:] if t.name != e.lengths):
        raise BundleError(f"{at}: exit {e.name!r:.60}: uncertainty and learned score are float32 (inputs,)")
    if e.lengths is not None and (
        (e.outputs[-1].dtype, len(e.outputs[-1].shape), len(e.answer.shape)) != ("int64", 1, 3)
    ):
        raise BundleError(
            f"{at}: exit {e.name!r:.60}: lengths are int64 (inputs,), of an answer (inputs, positions, classes)"
        )
    if e.members < 1 or (e.members > 1) != (e.uncertainty is not None):
        raise BundleError(f"{at}: exit {e.name!r:.60}: {e.members} heads; several, and no other, have an uncertainty")


def _say_the_same(tensors: list[TensorSpec], names: set[str]) -> bool:
    """Whether each of these stands exactly twice, with one dtype and shape."""
    found: dict[str, list[TensorSpec]] = {}
    for t in tensors:
        if t.name in names:
            found.setdefault(t.name, []).append(t)
    return all(len(f) == 2 and (f[0].dtype, f[0].shape) == (f[1].dtype, f[1].shape) for f in found.values())
