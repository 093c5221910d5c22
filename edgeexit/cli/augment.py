"""`edgeexit augment`"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeexit import backends
from edgeexit.calibrate.risk import Guarantee
from edgeexit.cli.common import (
    about,
    count,
    json_option,
    labels_of,
    names,
    percent,
    print_json,
    say,
    table,
    threads_option,
)
from edgeexit.cli.export import class_names
from edgeexit.environment import environment, environment_line
from edgeexit.errors import BackendMissing, DataError
from edgeexit.files import read_npz
from edgeexit.scores import SCORES

if TYPE_CHECKING:
    from edgeexit.bundle import Bundle
    from edgeexit_exporters.augment.places import Place
    from edgeexit_exporters.augment.result import Augmented, Tested
    from edgeexit_exporters.augment.verdict import Verdict


@click.command()
@click.argument("source")
@click.option(
    "--data", type=click.Path(path_type=Path), help="An .npz with x (n, ...) and y (n,); without y, agreement."
)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="The bundle's folder; written only if it is worth it."
)
@click.option("--test", type=click.Path(path_type=Path), help="Rows of a third kind, measured once, at the end.")
@click.option("--list", "list_only", is_flag=True, help="Only list the places where an exit could be; needs no data.")
@click.option("--output", metavar="NAME", help="The answer's tensor, where an .onnx file has several outputs.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict (.safetensors, or .pt read with weights_only)."
)
@click.option("--input", "inputs", multiple=True, metavar="SPEC", help="As of `edgeexit export`.")
@click.option("--drop", type=float, default=0.01, show_default=True, help="Accuracy, or agreement, that may be lost.")
@click.option(
    "--guarantee", metavar="LOSS<=A@C", help="A bound to be proven on the last part of the rows; see calibrate."
)
@click.option("--exits", type=click.IntRange(1), default=3, show_default=True, help="At most so many are added.")
@click.option(
    "--candidates", type=click.IntRange(1), default=12, show_default=True, help="At most so many places tried."
)
@click.option(
    "--aside", multiple=True, metavar="NAME", help="An input or tensor that exits need not see, e.g. an attention mask."
)
@click.option(
    "--mask", metavar="NAME", help="An input or tensor (b, t), 1 where a token is real: heads leave padding out."
)
@click.option(
    "--pool", type=click.Choice(["average", "avgmax", "grid", "first", "last"]), default="avgmax", show_default=True,
    help="How features become a vector; grid keeps coarse positions, first is the class token, last the last step.",
)  # fmt: skip
@click.option(
    "--head",
    type=click.Choice(["linear", "mlp"]),
    default="linear",
    show_default=True,
    help="mlp: 128 units, by torch.",
)
@click.option("--score", type=click.Choice(list(SCORES)), default="maxprob", show_default=True, help="What decides.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split and of the heads.")
@click.option("--layouts", default="fused,chain,prefix,all", show_default=True, help="Which forms to write.")
@click.option("--labels", metavar="A,B,C", help="Class names, or a text file with one per line.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@threads_option
@json_option
def augment(
    source: str,
    data: Path | None,
    out: Path | None,
    test: Path | None,
    list_only: bool,
    output: str | None,
    weights: Path | None,
    inputs: tuple[str, ...],
    drop: float,
    guarantee: str | None,
    exits: int,
    candidates: int,
    aside: tuple[str, ...],
    mask: str | None,
    pool: Any,
    head: str,
    score: str,
    seed: int,
    layouts: str,
    labels: str | None,
    overwrite: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Give a trained network early exits, without retraining it.

    SOURCE is a single-output .onnx file (needs no torch), or package.module:function returning a torch module with
    one answer. The network itself stays as it is. Small heads are fitted on its own features with 60 % of the rows;
    which of them become exits, and when to stop there, is chosen on 20 %, and measured on the last 20 %. Without y
    the network's own answers are learned, and agreement takes the place of accuracy. If no exit is worth it, the
    reason is the result and no bundle is written.

    \b
    Examples:
      edgeexit augment model.onnx --list
      edgeexit augment model.onnx --data train.npz --test test.npz --out adaptive.edgeexit
      edgeexit augment mynet:make --weights w.pt --data train.npz --head mlp --out adaptive.edgeexit
      edgeexit augment model.onnx --data d.npz --guarantee "accuracy_gap<=0.02@0.95" --out my.edgeexit
    """
    try:
        from edgeexit_exporters.augment import flow, measured
        from edgeexit_exporters.exporting import open_source
    except ImportError as e:
        raise BackendMissing(f"augment needs the workstation extras ({e}): pip install 'edgeexit[augment]'") from e
    if not list_only and (data is None or out is None):
        raise DataError("augment takes --data and --out, or --list alone")
    opened = open_source(source, [output] if output else None, weights, inputs, single=True)
    if list_only:
        places, total = flow.places_of(opened, candidates, aside, mask)
        if as_json:
            print_json({"macs": total, "places": [{"name": p.name, **asdict(p)} for p in places]})
        else:
            click.echo(_places(places, total))
        return
    assert data is not None and out is not None
    arrays = read_npz(data)
    others = None if test is None else read_npz(test)  # before minutes of work
    found = flow.augment(
        opened,
        _inputs(arrays),
        labels_of(arrays, data),
        out,
        drop=drop,
        exits=exits,
        candidates=candidates,
        aside=aside,
        mask=mask,
        pool=pool,
        head=head,
        score=score,
        guarantee=None if guarantee is None else Guarantee.parse(guarantee),
        seed=seed,
        layouts=names(layouts) or (),
        threads=threads,
        class_names=class_names(labels),
        overwrite=overwrite,
        progress=say,
    )
    tested = None
    if others is not None and test is not None and found.bundle is not None:
        with about(test):
            tested = measured.on_test(found, _inputs(others), labels_of(others, test))
    if as_json:
        print_json({**_document(found), "test": None if tested is None else asdict(tested)})
    else:
        click.echo(_text(found, tested))
        if found.bundle is not None:
            click.echo(f"wrote {out}: edgeexit run {out} --input ...")


def _short(place: Place) -> str:
    return place.name if len(place.name) <= 48 else f"...{place.name[-45:]}"


def _places(places: tuple[Place, ...], total: int) -> str:
    rows = [["place", "kind", "channels", "MACs", "of the network", "carries on"]]
    for p in places:
        share = None if p.macs is None else p.macs / total
        kinds, channels = " + ".join(p.kinds), " + ".join(map(str, p.channels))
        rows.append([_short(p), kinds, channels, count(p.macs), percent(share), f"{p.bytes / 1024:.1f} KiB"])
    return table(rows, right=(2, 3, 4, 5))


def _inputs(arrays: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in arrays.items() if k not in ("y", "labels")}


def _measured(v: Verdict, measure: str) -> str:
    rows = [["", "cost", measure, "rates"]]
    rows += [[f"exit {s.exit} alone", percent(s.cost), percent(s.accuracy, 2), ""] for s in v.statics]
    rows += [
        ["untouched", "100.0 %", percent(v.untouched, 2), ""],
        ["adaptive", percent(v.cost), percent(v.accuracy, 2), " ".join(percent(r, 0) for r in v.exit_rates)],
    ]
    return table(rows, right=(1, 2))


def _text(found: Augmented, tested: Tested | None = None) -> str:
    lines = [found.text, ""]
    rows = [["place", "cost", "head", found.measure, "used"]]
    for c in found.candidates:
        used = "exit" if c.used else ""
        rows.append([_short(c.place), percent(c.cost), count(c.head_macs), percent(c.accuracy, 2), used])
    rows.append(["the network itself", "100.0 %", "", percent(found.found.full, 2), ""])
    lines.append(table(rows, right=(1, 2, 3)))
    lines += ["", f"The front on the {found.rows['choose']:,} rows to choose on ({found.found.tried} subsets"
              f"{', all there are' if found.found.exact else ', beam search'}):"]  # fmt: skip
    front = found.found.front
    shown = [front[i] for i in np.unique(np.linspace(0, len(front) - 1, 12).astype(int))]
    lines.append(table([["cost", found.measure, "exits"], *(
        [percent(s.cost), percent(s.accuracy, 2), " ".join(map(str, s.exits)) or "the network itself"] for s in shown
    )], right=(0, 1)))  # fmt: skip
    v = found.verdict
    if found.bundle is not None:
        lines += ["", _kept(found.bundle)]
    if v is not None:
        lines += ["", f"On {v.n:,} rows that nothing was chosen on:", _measured(v, found.measure)]
    if tested is not None:
        lines += ["", f"Test, {tested.verdict.n:,} rows, once: {tested.verdict.text}"]
        lines.append(_measured(tested.verdict, found.measure))
        limits = (f"{100 * lost:g}: {percent(cost)}" for lost, cost in tested.hindsight.items())
        lines.append(
            f"With thresholds chosen in hindsight on these rows, the least cost by points lost: {', '.join(limits)}"
        )
    if found.point is not None and found.point.promise is not None:
        lines.append(f"promise: {found.point.promise['text']} (n = {found.point.promise['n']})")
    spent = ", ".join(f"{step} {s:.0f} s" for step, s in found.seconds.items())
    lines += ["", f"took: {spent}"]
    if rounds := _rounds(v):
        lines.append(f"time: medians of {rounds} rounds, interleaved with the untouched network")
    return "\n".join([*lines, environment_line(_where())])


def _rounds(v: Verdict | None) -> int | None:
    """Of timed calls; None = nothing was timed."""
    from edgeexit_exporters.augment.measured import ROUNDS

    return None if v is None or v.time_ratio is None else ROUNDS


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


def _document(found: Augmented) -> dict[str, Any]:
    return {
        "text": found.text,
        "measure": found.measure,
        "worth": found.verdict is not None and found.verdict.worth,
        "verdict": None if found.verdict is None else asdict(found.verdict),
        "bundle": None if found.bundle is None else str(found.bundle.path),
        "operating_point": None if found.point is None else found.point.to_dict(),
        "candidates": [{**asdict(c), "name": c.place.name} for c in found.candidates],
        "front": [
            {"exits": s.exits, "cost": s.cost, "accuracy": s.accuracy,
             "policy": None if s.policy is None else s.policy.to_dict()} for s in found.found.front
        ],
        "full": found.found.full,
        "subsets": found.found.tried,
        "exact": found.found.exact,
        "total_macs": found.total_macs,
        "last_exit_error": None if found.bundle is None else {
            a.name: a.check.max_error[-1] for a in found.bundle.manifest.artifacts if a.check is not None
        },
        "rows": dict(found.rows),
        "seconds": dict(found.seconds),
        "environment": _where(),
        "rounds": _rounds(found.verdict),
    }  # fmt: skip
