"""Text, JSON and plot of `edgeexit augment`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeexit.cli.common import count, percent, table
from edgeexit.common.environment import environment, environment_line
from edgeexit.engine import backends

if TYPE_CHECKING:
    from edgeexit.bundle.bundle import Bundle
    from edgeexit_exporters.augment.places import Place
    from edgeexit_exporters.augment.result import Augmented, Tested
    from edgeexit_exporters.augment.verdict import AugmentVerdict


def _short(place: Place) -> str:
    return place.name if len(place.name) <= 48 else f"...{place.name[-45:]}"


def places(candidates: tuple[Place, ...], total: int) -> str:
    rows = [["place", "kind", "channels", "MACs", "of the network", "carries on"]]
    for p in candidates:
        share = None if p.macs is None else p.macs / total
        kinds, channels = " + ".join(p.kinds), " + ".join(map(str, p.channels))
        rows.append([_short(p), kinds, channels, count(p.macs), percent(share), f"{p.bytes / 1024:.1f} KiB"])
    return table(rows, right=(2, 3, 4, 5))


def _measured(v: AugmentVerdict | None, tuned: AugmentVerdict | None, measure: str) -> str:
    """Both results, if there are two, side by side."""
    both = [r for r in (v, tuned) if r is not None]
    heads = (["frozen"] if v is not None else []) + (["fine-tuned"] if tuned is not None else [])
    named = heads if len(heads) > 1 or v is None else [""]
    rows = [["", *(c for h in named for c in (f"{h} cost".strip(), f"{h} {measure}".strip()))]]
    for k in range(len(both[0].statics)):
        alone = [r.statics[k] for r in both]
        rows.append([f"exit {k} alone", *(c for s in alone for c in (percent(s.cost), percent(s.accuracy, 2)))])
    rows.append(["untouched", *(c for r in both for c in ("100.0 %", percent(r.untouched, 2)))])
    rows.append(["adaptive", *(c for r in both for c in (percent(r.cost), percent(r.accuracy, 2)))])
    lines = [table(rows, right=range(1, len(rows[0])))]
    for name, r in zip(named, both, strict=True):
        rates = " ".join(percent(rate, 0) for rate in r.exit_rates)
        lines.append(f"exit rates{', ' + name if name else ''}: {rates}")
    return "\n".join(lines)


def _limits(which: str, tested: Tested) -> list[str]:
    limits = (f"{100 * lost:g}: {percent(cost)}" for lost, cost in tested.hindsight.items())
    return [
        f"With thresholds chosen in hindsight on these rows{which}, the least cost by points lost: {', '.join(limits)}"
    ]


def text(augmented: Augmented, tested: Tested | None = None) -> str:
    lines = [augmented.text, *_missing("", augmented.left_out)]
    if augmented.tuned is not None:
        lines += _missing(" fine-tuned", augmented.tuned.left_out)
    lines.append("")
    rows = [["place", "cost", "head", augmented.measure, "used"]]
    for c in augmented.candidates:
        used = "exit" if c.used else ""
        rows.append([_short(c.place), percent(c.cost), count(c.head_macs), percent(c.accuracy, 2), used])
    rows.append(["the network itself", "100.0 %", "", percent(augmented.choice.full, 2), ""])
    lines.append(table(rows, right=(1, 2, 3)))
    lines += ["", f"The front on the {augmented.rows['choose']:,} rows to choose on ({augmented.choice.tried} subsets"
              f"{', all there are' if augmented.choice.exact else ', beam search'}):"]  # fmt: skip
    front = augmented.choice.front
    shown = [front[i] for i in np.unique(np.linspace(0, len(front) - 1, 12).astype(int))]
    lines.append(table([["cost", augmented.measure, "exits"], *(
        [percent(s.cost), percent(s.accuracy, 2), " ".join(map(str, s.exits)) or "the network itself"] for s in shown
    )], right=(0, 1)))  # fmt: skip
    v = augmented.verdict
    if augmented.bundle is not None:
        lines += ["", _kept(augmented.bundle)]
    elif v is not None:
        lines += ["", "No bundle was written; --anyway writes it."]
    if augmented.tuned is not None:
        lines += ["", f"Fine-tuned, heads and network: {augmented.tuned.text}"]
    tuned = None if augmented.tuned is None else augmented.tuned.verdict
    if v is not None or tuned is not None:
        n = (v or tuned).n  # type: ignore[union-attr]
        promised = augmented.point is not None and augmented.point.promise is not None
        which = "that the bound was proven on" if promised else "that nothing was chosen on"
        lines += ["", f"On {n:,} rows {which}:", _measured(v, tuned, augmented.measure)]
    if tested is not None:
        lines += ["", f"Test, {tested.verdict.n:,} rows, once: {tested.verdict.text}"]
        if tested.tuned is not None:
            lines.append(f"Fine-tuned: {tested.tuned.verdict.text}")
        tuned = None if tested.tuned is None else tested.tuned.verdict
        lines.append(_measured(tested.verdict, tuned, augmented.measure))
        lines += _limits("", tested) + ([] if tested.tuned is None else _limits(", fine-tuned", tested.tuned))
    if augmented.point is not None and augmented.point.promise is not None:
        lines.append(f"promise: {augmented.point.promise['text']} (n = {augmented.point.promise['n']})")
    spent = ", ".join(f"{step} {s:.0f} s" for step, s in augmented.seconds.items())
    lines += ["", f"took: {spent}"]
    if rounds := _rounds(v):
        lines.append(f"time: medians of {rounds} rounds, interleaved with the untouched network")
    return "\n".join([*lines, environment_line(_where())])


def _missing(which: str, left_out: Mapping[str, str]) -> list[str]:
    return [f"warning: the{which} bundle has no {artifact}: {why}" for artifact, why in left_out.items()]


def _rounds(v: AugmentVerdict | None) -> int | None:
    """Of timed calls; None = nothing was timed."""
    from edgeexit_exporters.augment.measured import ROUNDS

    return None if v is None or v.time is None else ROUNDS


def _where() -> dict[str, Any]:
    return environment(backends.get("onnx").version(), threads=1)


def _kept(bundle: Bundle) -> str:
    """Whether the network itself still answers as it did, forced to its last exit."""
    errors = {a.layout: a.check.max_error[-1] for a in bundle.manifest.artifacts if a.check is not None}
    alike = [layout for layout, e in errors.items() if e == 0]
    parts = [f"bit for bit in {', '.join(alike)}"] if alike else []
    if rounded := [layout for layout, e in errors.items() if e > 0]:
        parts.append(f"but for rounding (up to {max(errors.values()):.0e}) in {', '.join(rounded)}")
    return f"Forced to its last exit, the network answers as before: {'; '.join(parts)}."


def document(augmented: Augmented) -> dict[str, Any]:
    return {
        "text": augmented.text,
        "measure": augmented.measure,
        "worth": False if augmented.verdict is None else augmented.verdict.worth,
        "verdict": None if augmented.verdict is None else asdict(augmented.verdict),
        "bundle": None if augmented.bundle is None else str(augmented.bundle.path),
        "left_out": dict(augmented.left_out),
        "tuned": None if augmented.tuned is None else {
            "text": augmented.tuned.text,
            "verdict": None if augmented.tuned.verdict is None else asdict(augmented.tuned.verdict),
            "bundle": None if augmented.tuned.bundle is None else str(augmented.tuned.bundle.path),
            "left_out": dict(augmented.tuned.left_out),
            "operating_point": None if augmented.tuned.point is None else augmented.tuned.point.to_dict(),
        },
        "operating_point": None if augmented.point is None else augmented.point.to_dict(),
        "candidates": [{**asdict(c), "name": c.place.name} for c in augmented.candidates],
        "front": [
            {"exits": s.exits, "cost": s.cost, "accuracy": s.accuracy,
             "policy": None if s.policy is None else s.policy.to_dict()} for s in augmented.choice.front
        ],
        "full": augmented.choice.full,
        "subsets": augmented.choice.tried,
        "exact": augmented.choice.exact,
        "total_macs": augmented.total_macs,
        "last_exit_error": None if augmented.bundle is None else {
            a.name: a.check.max_error[-1] for a in augmented.bundle.manifest.artifacts if a.check is not None
        },
        "rows": dict(augmented.rows),
        "seconds": dict(augmented.seconds),
        "environment": _where(),
        "rounds": _rounds(augmented.verdict),
    }  # fmt: skip


def plot(augmented: Augmented, tested: Tested | None) -> bytes:
    """The front on the rows to choose on, and what came of it, as a PNG."""
    from edgeexit.report.plots.curve import PlottedCurve, curve_png

    n = augmented.rows["choose"]
    curves = [
        PlottedCurve(
            f"front of all places, {n:,} rows to choose on", [(s.cost, s.accuracy) for s in augmented.choice.front]
        )
    ]
    results: list[tuple[str, Tested | None, AugmentVerdict | None]] = [("", tested, augmented.verdict)]
    if augmented.tuned is not None:
        results.append((", fine-tuned", None if tested is None else tested.tuned, augmented.tuned.verdict))
    for name, test, held_out in results:
        v = held_out if test is None else test.verdict
        if v is None:
            continue
        rows = f"{v.n:,} {'held-out' if test is None else 'test'} rows"
        if test is not None:
            curves.append(PlottedCurve(f"thresholds in hindsight{name}, {rows}", test.curve, dashed=True))
        curves.append(PlottedCurve(f"adaptive{name}, {rows}", [(v.cost, v.accuracy)], "o"))
        curves.append(PlottedCurve(f"exits alone{name}, {rows}", [(s.cost, s.accuracy) for s in v.statics], "s"))
        if not name:
            curves.append(PlottedCurve(f"untouched, {rows}", [(1.0, v.untouched)], "*"))
    title = augmented.text if tested is None else f"Test: {tested.verdict.text}"
    return curve_png(curves, title, environment_line(_where()), augmented.measure)
