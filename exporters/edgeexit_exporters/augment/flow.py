"""Augmentation: a trained single-exit network to a calibrated bundle with exits, or to the reason why not."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.engine.inputs import InputCheck, largest_difference
from edgeexit.errors import DataError, ExportMismatch, ModelError
from edgeexit_exporters.analysis.answers import SourceAnswer
from edgeexit_exporters.analysis.describe import graph_precision
from edgeexit_exporters.analysis.tolerance import MOST, own_rounding, relative_errors, tolerance_for
from edgeexit_exporters.augment.choose import ERRORS, ExitChoice, ExitSetting, Scored, choose
from edgeexit_exporters.augment.features import features
from edgeexit_exporters.augment.graft import graft
from edgeexit_exporters.augment.heads import Head, fit_linear, fit_mlp, soft_targets
from edgeexit_exporters.augment.masked import check_mask
from edgeexit_exporters.augment.measured import SplitRows, shipped
from edgeexit_exporters.augment.places import Place, find_places
from edgeexit_exporters.augment.result import Augmented, Candidate
from edgeexit_exporters.augment.spec import AugmentSpec
from edgeexit_exporters.augment.split import split_rows
from edgeexit_exporters.augment.tuned import Tune, beside, fine_tuned, tunable
from edgeexit_exporters.exporting import check_free, open_source
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.source.input_roles import like_data
from edgeexit_exporters.source.inputs import from_data, make_inputs
from edgeexit_exporters.source.output_kind import check_kind
from edgeexit_exporters.source.preprocessing import declare, network_rows
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.spec import ExportSpec

if TYPE_CHECKING:
    from torch import nn

DEEPEST = 0.95
"""Share of the network's cost beyond which an exit can save nothing."""
COMPARED = 16
"""Rows on which an exported graph is compared with its source before any exit is added."""
Tell = Callable[[str], None]


def places_of(
    source: Source, most: int = AugmentSpec.candidates, aside: Sequence[str] = (), mask: str | None = None
) -> tuple[tuple[Place, ...], int]:
    """Candidate places, and the network's MACs.

    Args:
        source: of one exit.
        most: where there are more, they are thinned out evenly. Cuts of several tensors count only where there are not
            two places of one tensor.
        aside: inputs or tensors that exits need not see, such as an attention mask; see `places.find_places`.
        mask: the input or tensor (b, t) that says which positions are real; see there, too.

    Raises:
        ModelError: more than one exit, nothing separates input from output, or MACs are unknown.
    """
    if len(source.exits) != 1 or source.exits[0].members != 1:
        raise ModelError(f"augment takes a network with one answer; this one has {len(source.exits)} exits already")
    example = make_inputs(source.inputs, 1, seed=0)
    costs = measure.node_costs(source.model, example)
    total = costs.total(source.model.graph)
    unfit: dict[str, str] = {}
    everywhere = find_places(
        source.model, source.exits[0].answer, example, costs, aside=aside, mask=mask, refused=unfit
    )
    if not total:
        raise ModelError("the network's multiply-accumulates are unknown, so nothing can be said to be saved")
    places = [p for p in everywhere if p.macs is not None and p.macs <= DEEPEST * total]
    if not places:
        raise ModelError(
            f"nothing separates the network's inputs from its answer before {100 * DEEPEST:g} % of the cost: it is too "
            "shallow, or an input such as a mask reaches every block; set that one aside (--aside NAME, --mask NAME)"
            + "".join([f"; {n!r} {why}" for n, why in unfit.items() if f"mask {mask!r}" in why][:3])
        )
    single = [p for p in places if len(p.tensors) == 1]
    # A cut of several tensors often runs through what an engine fuses, and the last exit then differs in its last bits.
    places = single if len(single) > 1 else places
    if len(places) > most:
        order = np.unique(np.linspace(0, len(places) - 1, most).round().astype(int))
        places = [places[i] for i in order]
    return tuple(places), total


def augment(
    source: nn.Module | str | Path | Source,
    data: Mapping[str, NDArray[Any]],
    labels: NDArray[np.int64] | None,
    out: Path | str,
    spec: AugmentSpec | None = None,
    *,
    groups: NDArray[Any] | None = None,
    tune: Tune | None = None,
    progress: Tell = lambda text: None,
    **options: Any,
) -> Augmented:
    """Give a trained network exits without retraining it, or, with `tune`, also with some retraining, side by side.

    Heads are fitted on one part of the rows; which of them become exits, and with which thresholds, is chosen on a
    second; what to expect is measured, and certified if asked, on a third.

    Args:
        source: a torch module with one answer, ``"package.module:function"`` that makes one, the path of an ``.onnx``
            file with one output, or what `exporting.open_source` made of them.
        data: inputs `(n, ...)` by name, or "x".
        labels: `(n,)` true classes; None = the network's own answers are what heads learn, and agreement counts.
        out: the bundle's folder; written unless the verdict is that it is not worth it.
        spec: what to add and how; None = the defaults.
        groups: `(n,)` of rows that belong together, such as a speaker's: no group is in two of the three parts, as rows
            of one group are alike, and what is chosen on them looks better than it is. None = every row for itself.
        tune: trains the chosen exits and the network on, such as `edgeexit_models.finetune`; the result goes beside
            `out`, its name ending in ``-tuned``. Needs a torch source of one input.
        progress: called with each step's name.
        options: fields of `AugmentSpec`, instead of or on top of `spec`.

    Raises:
        ModelError, DataError, BundleError: the network, the rows or `out` cannot be used. Where exits were fitted and
            a layout cannot be made, the message says where the network with them was saved.
        Infeasible: nothing can be certified.
        TypeError: no such option.
    """
    spec, out = replace(spec or AugmentSpec(), **options), Path(out)
    check_free(out, spec.overwrite)
    if not isinstance(source, Source):
        source = open_source(source, ExportSpec(outputs=spec.outputs), single=True)
    if tune is not None:
        tunable(source)
        check_free(beside(out), spec.overwrite)
    clock = _Clock(progress)
    for note in source.notes:
        progress(f"note: {note}")
    clock("looking for places")
    places, total = places_of(source, spec.candidates, spec.aside, spec.mask)
    declared = declare(source, spec.preprocess, progress)
    data = network_rows(data, [i.tensor for i in source.inputs], declared)
    inputs = from_data(source.inputs, data, max((len(a) for a in data.values() if a.ndim), default=0))
    n = len(InputCheck([s.tensor for s in source.inputs]).many(inputs)[0])  # shapes, NaN, one count of rows
    if labels is not None and len(labels) != n:
        raise DataError(f"{len(labels)} labels for {n} rows")
    if spec.mask is not None:
        check_mask(source.model, spec.mask, inputs)
    source = replace(source, inputs=like_data(source.inputs, inputs))
    _same_as_source(source, inputs, spec.tolerance)
    parts = split_rows(n, spec.seed, groups)
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:
        clock(f"reading features at {len(places)} places of {n:,} rows")
        seen, answers = features(source.model, places, inputs, Path(folder), pool=spec.pool, threads=spec.threads)
        _check_answers(source, answers)
        final = _logits(answers, source.joint.kinds[0])
        clock(f"fitting {len(places)} heads")
        heads = _fit(spec, seen, final, labels, parts["fit"], clock.tell)
        scored = _scored(heads, seen, final, labels, places, total, parts["choose"])
    clock("choosing exits")
    choice = choose(scored, spec.drop, most=spec.exits, score=spec.score)
    table = _candidates(places, heads, scored, choice, total)
    rows = SplitRows(inputs, labels, parts, np.asarray(final.argmax(1), np.int64))
    chosen = choice.best.exits
    result = tuned = None
    if chosen:
        picked = [places[k] for k in chosen], [heads[k] for k in chosen]
        grafted = graft(source, *picked, spec.pool)
        result = shipped(grafted, source, rows, out, spec, total=total, preprocess=declared, tell=clock)
        text = result.verdict.text
    else:
        text = _why_not(table, choice, spec.drop, rows.measure)
    if tune is not None:
        clock("fine-tuning")
        begin = chosen or _nearest(choice, spec.drop).exits or (len(places) // 2,)
        picked = [places[k] for k in begin], [heads[k] for k in begin]
        tuned = fine_tuned(tune, source, *picked, rows, beside(out), spec, total=total, preprocess=declared)
    sizes = {name: len(part) for name, part in parts.items()}
    return Augmented(
        None if result is None else result.verdict, text, None if result is None else result.bundle,
        None if result is None else result.point, table, choice, rows.measure, total, sizes, clock.done(), tuned,
        {} if result is None else result.left_out,
    )  # fmt: skip


class _Clock:
    """Tells every step and keeps how long it took."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.seconds: dict[str, float] = {}
        self.step, self.start = "", time.monotonic()

    def __call__(self, step: str) -> None:
        self.done()
        self.step = step
        self.tell(step)

    def done(self) -> dict[str, float]:
        now = time.monotonic()
        if self.step:
            self.seconds[self.step] = now - self.start
        self.step, self.start = "", now
        return self.seconds


def _same_as_source(source: Source, inputs: Mapping[str, NDArray[Any]], asked: float | None) -> None:
    """A torch module was exported on the way: its graph must answer as it does."""
    proto, exit = ir.to_proto(source.model), source.exits[0]
    size = 1 if any(s.tensor.shape[0] == 1 for s in source.inputs) else 2
    few = [{n: a[i : i + size] for n, a in inputs.items()} for i in range(0, COMPARED, size)]
    few = [x for x in few if len(next(iter(x.values()))) == size]
    exported = [measure.all_values(proto, [exit.answer], x)[exit.answer] for x in few]
    pairs = [(a, source.reference(x)[exit.answer]) for a, x in zip(exported, few, strict=True)]
    error = max(relative_errors([largest_difference(a, b) for a, b in pairs]), default=0.0)
    allowed = max(tolerance_for("fp32").here, asked or 0.0)  # a strict one is meant for layouts: this is another engine
    if error > allowed:
        own = own_rounding(proto, source.exits, [SourceAnswer(x, {}, size) for x in few])
        allowed = max(tolerance_for("fp32", own).here, allowed)
    if not error <= allowed:
        raise ExportMismatch(
            f"the exported graph differs from the source model by {error:.1e} before any exit is added; {allowed:.0e} "
            "of the largest output is allowed (--tolerance)"
        )


def _check_answers(source: Source, answers: NDArray[Any]) -> None:
    """What was read off a few example inputs as probabilities must be so on the rows."""
    if source.joint.kinds[0] == "probs" and not source.joint.said and graph_precision(source) in MOST:
        check_kind(source.exits[0].name, [np.asarray(answers)])


def _logits(answers: NDArray[Any], kind: str) -> NDArray[np.float32]:
    if answers.ndim != 2 or answers.shape[1] < 2:
        raise ModelError(f"the network answers {list(answers.shape)}; augment takes classifiers (n, classes >= 2)")
    z = np.asarray(answers, np.float32)
    return np.log(np.maximum(z, np.float32(1e-30))) if kind == "probs" else z


def _fit(
    spec: AugmentSpec, seen: Sequence[NDArray[Any]], final: NDArray[np.float32], labels: NDArray[np.int64] | None,
    rows: NDArray[np.int64], tell: Tell,
) -> list[Head]:  # fmt: skip
    targets: NDArray[Any] = soft_targets(final[rows], "logits", spec.temperature) if labels is None else labels[rows]
    if labels is not None and (labels.min() < 0 or labels.max() >= final.shape[1]):
        raise DataError(f"labels reach from {labels.min()} to {labels.max()}, classes are 0 to {final.shape[1] - 1}")
    heads: list[Head] = []
    for k, vectors in enumerate(seen):
        tell(f"  head {k + 1} of {len(seen)}")
        own = vectors[rows]
        fit = fit_mlp if spec.head == "mlp" else fit_linear
        heads.append(fit(own, targets, seed=spec.seed, classes=final.shape[1], temperature=spec.temperature))
    return heads


def _scored(
    heads: Sequence[Head], seen: Sequence[NDArray[Any]], final: NDArray[np.float32], labels: NDArray[np.int64] | None,
    places: Sequence[Place], total: int, rows: NDArray[np.int64],
) -> Scored:  # fmt: skip
    return Scored(
        np.stack([h.logits(np.asarray(v[rows])) for h, v in zip(heads, seen, strict=True)]),
        final[rows],
        None if labels is None else labels[rows],
        np.array([p.macs for p in places], np.float64),
        np.array([h.macs for h in heads], np.float64),
        float(total),
    )


def _candidates(
    places: Sequence[Place], heads: Sequence[Head], scored: Scored, choice: ExitChoice, total: int
) -> tuple[Candidate, ...]:
    truth = scored.final.argmax(1) if scored.labels is None else scored.labels
    right = (scored.logits.argmax(2) == truth).mean(1)
    return tuple(
        Candidate(p, (p.macs or 0) / total, h.macs, float(a), k in choice.best.exits)
        for k, (p, h, a) in enumerate(zip(places, heads, right, strict=True))
    )


def _nearest(choice: ExitChoice, drop: float) -> ExitSetting:
    return min(choice.front, key=lambda s: abs(s.accuracy - (choice.full - drop)))


def _why_not(table: Sequence[Candidate], choice: ExitChoice, drop: float, kind: str) -> str:
    best = max(table, key=lambda c: c.accuracy)
    near = _nearest(choice, drop)
    if lucky := [s for s in choice.front if s.exits and s.cost < 1 and s.accuracy >= choice.full - drop]:
        return (
            f"Not worth it on these rows: the cheapest setting within {100 * drop:g} points of {kind} "
            f"({100 * lucky[0].accuracy:.1f} % at {100 * lucky[0].cost:.0f} % of the cost, the network "
            f"{100 * choice.full:.1f} %) is so by less than {ERRORS:g} standard errors of the rows to choose on; give "
            "more rows, or allow more (--drop)."
        )
    return (
        f"Not worth it: no exit saves anything at {100 * drop:g} points less {kind}. The heads are too weak: the best "
        f"one reaches {100 * best.accuracy:.1f} % at {100 * best.cost:.0f} % of the cost, the network "
        f"{100 * choice.full:.1f} %; nearest on the front: {100 * near.accuracy:.1f} % at {100 * near.cost:.0f} %."
    )
