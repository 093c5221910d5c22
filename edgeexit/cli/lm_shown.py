"""Text of `edgeexit inspect` for language models: sizes, exits, artifacts."""

from __future__ import annotations

from typing import Any

from edgeexit.bundle.lm_spec import LmProof
from edgeexit.bundle.manifest import Manifest
from edgeexit.cli.common import count, percent, table


def lm_text(m: Manifest) -> str:
    """Sizes, exits with cost and agreement, artifacts with their proofs."""
    spec = m.lm
    assert spec is not None
    mib = spec.cache_bytes(spec.context) / 2**20
    lines = [
        f"{m.name}: {spec.layers} layers, width {spec.width}, {spec.vocab} tokens, context {spec.context} "
        f"(cache {mib:.1f} MiB when full), {'with' if spec.tokenizer else 'without'} tokenizer",
        "",
        _exits(m),
        "",
        _artifacts(m),
    ]
    return "\n".join(lines)


def proof_text(proof: LmProof | None) -> str:
    """Proof of speculation with an artifact, in words."""
    if proof is None:
        return "not measured"
    if proof.verified:
        return (
            f"lossless up to {proof.block} tokens: verified on {proof.tokens} (largest change of a logit "
            f"{proof.max_difference:.1e})"
        )
    return f"approximate: {proof.flips} of {proof.tokens} tokens change, logits by up to {proof.max_difference:.2g}"


def _exits(m: Manifest) -> str:
    agreement = _noted(m)
    spec, last = m.lm, m.exits[-1].macs
    assert spec is not None
    head = ["exit", "layers", "MACs", "of last"]
    rows = [head + ["agrees with last", "by the shared head"] * bool(agreement)]
    for k, (e, layers) in enumerate(zip(m.exits, spec.stages, strict=True)):
        row = [str(k), str(layers), count(e.macs), percent(None if not last or e.macs is None else e.macs / last)]
        rows.append(row + ([percent(agreement[k][0]), percent(agreement[k][1])] if agreement else []))
    return table(rows, right=range(6))


def _noted(m: Manifest) -> list[tuple[float, float]]:
    """Agreement from the exporter's notes, which are free JSON and therefore checked."""
    noted: Any = m.provenance.get("lm_exits")
    if not isinstance(noted, list) or len(noted) != len(m.exits):
        return []
    pairs: list[tuple[Any, Any]] = [(e.get("shown"), e.get("plain")) for e in noted if isinstance(e, dict)]
    good = [(float(a), float(b)) for a, b in pairs if _share(a) and _share(b)]
    return good if len(good) == len(noted) else []


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _artifacts(m: Manifest) -> str:
    rows = [["artifact", "size", "tokens together"]]
    for a in m.artifacts:
        rows.append([a.name, f"{a.bytes / 2**20:.1f} MiB", proof_text(a.proof)])
    return table(rows, right=(1,))
