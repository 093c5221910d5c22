"""The manifest as JSON, and reading it from JSON that may be hostile.

`docs/bundle-format.md` is the specification and `edgeexit/bundle/schema.json` its JSON Schema; this module
checks what the schema checks, without a library, for the device; that the parts fit is in `manifest_checks`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from edgeexit.bundle.checks import check_parts
from edgeexit.bundle.input_range import InputRange
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.lm_spec import LmProof, LmSpec
from edgeexit.bundle.manifest import (
    DTYPES,
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
from edgeexit.common.json_fields import Reader, not_negative, positive, text
from edgeexit.errors import BundleError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit.policy.scores import NAMES

if TYPE_CHECKING:
    from edgeexit.bundle.speech_spec import SpeechSpec

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


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
        **({"default_policy": manifest.default_policy} if manifest.default_policy is not None else {}),
        **({"preprocess": {n: p.to_dict() for n, p in manifest.preprocess.items()}} if manifest.preprocess else {}),
        **({"ranges": {n: r.to_dict() for n, r in manifest.ranges.items()}} if manifest.ranges else {}),
    }


def _axis(value: Any, at: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BundleError(f"{at}: expected a size or the name of a free axis, found {value!r:.60}")
    if isinstance(value, int) and not 0 <= value <= 1 << 40:
        raise BundleError(f"{at}: expected a size from 0 to 2^40, found {value!r:.60}")
    return value if isinstance(value, int) else text(value, at)


def _tensor(value: Any, at: str) -> TensorSpec:
    r = Reader(value, at)
    axis = r.count_or_none("batch_axis") if "batch_axis" in r.data else 0
    return TensorSpec(r.text("name"), r.text("dtype", among=DTYPES), r.list("shape", _axis, most=16), axis)


def _per_input(value: Any, at: str) -> TensorSpec:
    """A model input or an exit's output: its axis 0 counts inputs."""
    found = _tensor(value, at)
    if not found.shape or found.batch_axis != 0:
        raise BundleError(f"{at}: axis 0 of a model input or an exit's output counts inputs")
    return found


def _exit(value: Any, at: str) -> ExitSpec:
    r = Reader(value, at)
    return ExitSpec(
        r.text("name"),
        r.list("outputs", _per_input, least=1, most=64),
        r.text("kind", among=("logits", "probs")),
        r.count_or_none("macs"),
        r.count_or_none("prefix_macs"),
        r.count("members", most=MAX_MEMBERS) if "members" in r.data else 1,
        r.optional("uncertainty", text),
        r.optional("learned", text),
        r.optional("lengths", text),
    )


def _stage(value: Any, at: str) -> StageSpec:
    r = Reader(value, at)
    return StageSpec(
        r.list("inputs", text, least=1),
        r.list("outputs", text, least=1),
        r.count_or_none("macs"),
        r.count("parameters"),
        r.count("weight_bytes"),
        r.count_or_none("cut_bytes"),
        r.list("states", _state) if "states" in r.data else (),
    )


def _state(value: Any, at: str) -> StateSpec:
    r = Reader(value, at)
    found = StateSpec(_tensor(r.data.get("input"), f"{at}.input"), r.text("output"))
    if not all(isinstance(a, int) for a in found.input.shape):
        raise BundleError(f"{at}.input: a state has fixed sizes, found {list(found.input.shape)!r:.60}")
    if math.prod(a for a in found.input.shape if isinstance(a, int)) > MAX_STATE:
        raise BundleError(f"{at}.input: a state of {list(found.input.shape)!r:.60} numbers; up to {MAX_STATE} are kept")
    return found


def _min_sizes(value: Any, at: str) -> dict[str, int]:
    r = Reader(value, at)
    if len(r.data) > 256:
        raise BundleError(f"{at}: {len(r.data)} axes; expected at most 256")
    return {text(name, at): r.count(name, 1 << 40) for name in r.data}


def _by_input(value: Any, at: str, read: Callable[[Any, str], T]) -> dict[str, T]:
    r = Reader(value, at)
    if len(r.data) > 256:
        raise BundleError(f"{at}: {len(r.data)} inputs; expected at most 256")
    return {text(name, at): read(v, f"{at}.{name:.60}") for name, v in r.data.items()}


def _check(value: Any, at: str) -> Check:
    r = Reader(value, at)
    return Check(
        not_negative(r.data.get("tolerance"), f"{at}.tolerance"),
        r.list("max_error", not_negative, least=1, most=MAX_EXITS),
        r.count("inputs"),
    )


def _artifact(value: Any, at: str) -> Artifact:
    r = Reader(value, at)
    return Artifact(
        r.text("name", _NAME),
        r.text("format", _NAME),
        r.text("layout", among=LAYOUTS),
        r.text("precision", _NAME),
        r.optional("score", lambda v, a: Reader({"score": v}, a).text("score", among=NAMES)),
        r.list("temperatures", positive, least=1, most=MAX_EXITS),
        r.list("models", FileSpec.from_dict, least=1, most=MAX_EXITS),
        r.list("data", FileSpec.from_dict),
        r.optional("vectors", FileSpec.from_dict),
        r.optional("calibration", FileSpec.from_dict),
        r.optional("check", _check),
        r.optional("batch", lambda v, a: Reader({"batch": v}, a).text("batch", among=("one",))),
        r.optional("cuts", lambda v, a: Reader({"cuts": v}, a).list("cuts", _tensor)),
        r.list("ports", _port, most=512) if "ports" in r.data else (),
        r.optional("sizes", _sizes) or {},
        r.optional("proof", LmProof.from_dict),
    )


def _sizes(value: Any, at: str) -> dict[str, tuple[int, ...]]:
    r = Reader(value, at)
    if len(r.data) != 1:
        raise BundleError(f"{at}: {len(r.data)} axes; expected one")
    found = {text(name, at): r.list(name, _axis, least=1, most=256) for name in r.data}
    sizes = next(iter(found.values()))
    whole = [s for s in sizes if isinstance(s, int) and s > 0]
    if len(whole) < len(sizes) or whole != sorted(set(whole)):
        raise BundleError(f"{at}: expected rising sizes, found {list(sizes)!r:.60}")
    return {name: tuple(whole) for name in found}


def _port(value: Any, at: str) -> Port:
    r = Reader(value, at)
    zero_point = r.data.get("zero_point")
    if zero_point is not None and (isinstance(zero_point, bool) or not isinstance(zero_point, int)):
        raise r.fail("zero_point", "a whole number or null")
    found = Port(
        r.text("name"),
        r.text("dtype", among=DTYPES),
        r.optional("order", lambda v, a: Reader({"order": v}, a).list("order", _place, least=1, most=16)),
        r.optional("scale", positive),
        zero_point,
        r.optional("called", text),
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
    r = Reader(data, at)
    if r.data.get("format") != "edgeexit":
        raise r.fail("format", "'edgeexit'")
    if r.data.get("schema") != SCHEMA or isinstance(r.data.get("schema"), bool):
        raise BundleError(
            f"{at}: bundle schema {r.data.get('schema')!r:.40}; this version of EdgeExit knows {SCHEMA}: "
            "export the bundle again, or install the version that wrote it"
        )
    policies = Reader(r.data.get("policies"), f"{at}.policies")
    provenance = Reader(r.data.get("provenance"), f"{at}.provenance").data
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
        r.optional("labels", lambda v, a: Reader({"labels": v}, a).list("labels", text, most=1 << 20)),
        provenance,
        r.optional("speech", _speech),
        r.optional("min_sizes", _min_sizes) or {},
        lm=r.optional("lm", LmSpec.from_dict),
        default_policy=r.optional("default_policy", lambda v, a: r.text("default_policy", _NAME)),
        preprocess=r.optional("preprocess", lambda v, a: _by_input(v, a, Preprocess.from_dict)) or {},
        ranges=r.optional("ranges", lambda v, a: _by_input(v, a, InputRange.from_dict)) or {},
    )
    check_parts(found, at)
    return found


def _speech(value: Any, at: str) -> SpeechSpec:
    from edgeexit.bundle.speech_spec import SpeechSpec  # here, so that bundles without speech do not load it

    return SpeechSpec.from_dict(value, at)
