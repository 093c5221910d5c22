"""Accuracy, size and latency of every format and precision of a bundle, compared with single-exit networks.

Targets, fused forced to the last exit against the same network without exits: ONNX float 1.10x, ONNX int8 1.20x,
TFLite float 1.05x, TFLite int8 1.10x. "whole" is the prefix of the last exit: the same backbone and precision, no early
heads. Everything is timed through the driver that `edgeexit.load` uses, int8 inputs made from float ones included, all
cases interleaved in one run. "whole" computes the score of its output, as every exit does
but a single-exit network need not; "no score" is the engine's call alone. "-1 point" is the operating point stored for
the fused artifact; its latency is the mean over exits, weighted by the exit rates of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeexit
from benchmarks.common import finish, parser, ratios, time_together
from benchmarks.single_exit import references
from edgeexit.bundle.manifest import Artifact
from edgeexit.engine.engine import Engine
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import fixed_exit

TARGETS = {("onnx", "fp32"): 1.10, ("onnx", "int8"): 1.20, ("tflite", "fp32"): 1.05, ("tflite", "int8"): 1.10}
_BARE = "whole, no score"
Array = NDArray[Any]


@dataclass
class Row:
    """One line of the table; None = not there or not measured."""

    form: str
    network: str
    accuracy: float | None = None
    bytes: int | None = None
    timed: dict[str, float] = field(default_factory=dict)
    """Cases and their weights."""
    target: float | None = None


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--bundle", type=Path, required=True, help="bundle to measure")
    p.add_argument("--data", type=Path, help=".npz with x and y not used in the export, for accuracies and exit rates")
    p.add_argument(
        "--mlperf",
        type=Path,
        metavar="DIR",
        help="folder of single-exit .tflite files; those with the same input and output are measured",
    )
    p.add_argument("--n", type=int, default=400, help="rounds of every case [default: 400]")
    p.add_argument("--threads", type=int, default=1, help="threads of the engine [default: 1]")
    a = p.parse_args()
    bundle = edgeexit.Bundle.open(a.bundle)
    x, y = _rows(a.data)
    cases: dict[str, Callable[[], object]] = {}
    rows: list[Row] = []
    options: dict[str, str] = {}
    versions = {}
    for form, artifacts in _forms(bundle).items():
        engines = {
            w: edgeexit.load(bundle, artifact=b.name, exit=-1, threads=a.threads, warmup=0)
            for w, b in artifacts.items()
        }
        rows += _form(bundle, form, engines, x, y, cases)
        for engine in engines.values():
            versions[engine.backend.version()] = None
            options[engine.artifact.name] = _options(engine)
    if a.mlperf is not None:
        example = engines["prefix" if "prefix" in engines else next(iter(engines))].example()[0]
        for r in references(a.mlperf, bundle.manifest, a.threads):
            name = f"single-exit {r.precision}, {r.name}"
            cases[name] = lambda r=r: r.run(example)  # type: ignore[misc]
            right = None if x is None else float(np.mean([r.run(x[i : i + 1]).argmax() for i in range(len(x))] == y))
            rows.append(Row(f"tflite {r.precision}", r.name, right, r.bytes, {name: 1.0}))
    seconds = time_together(cases, a.n)
    table = [_measured(r, rows, seconds) for r in rows]
    settings = {
        "bundle": bundle.manifest.name,
        "measured_rows": 0 if x is None else len(x),
        "options": _grouped(options),
    }
    finish("formats", table, a, _text(table), n=a.n, threads=a.threads, engine=", ".join(versions), **settings)


def _rows(path: Path | None) -> tuple[Array | None, Array | None]:
    if path is None:
        return None, None
    with np.load(path, allow_pickle=False) as z:
        return z["x"], z["y"]


def _forms(bundle: edgeexit.Bundle) -> dict[tuple[str, str], dict[str, Artifact]]:
    """(format, precision) -> layout -> artifact."""
    forms: dict[tuple[str, str], dict[str, Artifact]] = {}
    for artifact in bundle.manifest.artifacts:
        forms.setdefault((artifact.format, artifact.precision), {})[artifact.layout] = artifact
    return forms


def _form(
    bundle: edgeexit.Bundle, form: tuple[str, str], engines: dict[str, Engine], x: Array | None, y: Array | None,
    cases: dict[str, Callable[[], object]],
) -> list[Row]:  # fmt: skip
    """The rows of one format and precision; what is to be timed goes to `cases`."""
    name, last = " ".join(form), len(bundle.manifest.exits) - 1
    rows = []
    if "prefix" in engines:
        right = _accuracy(engines["prefix"], x, y)
        engine = engines["prefix"]
        size, alone = engine.artifact.models[last].bytes, f"{name}, {_BARE}"
        rows.append(Row(name, "whole", _at(right, last), size, _forced(name, engine, last, cases)))
        x0 = engine.example()
        cases[alone] = lambda d=engine.driver, x0=x0: d.call(x0, last)  # type: ignore[misc]
        rows.append(Row(name, _BARE, None, None, {alone: 1.0}))
    if "all" in engines:
        engine, title = engines["all"], f"{name}, all exits"
        x0 = engine.example()
        cases[title] = lambda d=engine.driver, x0=x0: d.all_exits(x0)  # type: ignore[misc]
        rows.append(Row(name, "all exits at once", None, engine.artifact.bytes, {title: 1.0}))
    if "chain" in engines:
        engine = engines["chain"]
        right, case = _accuracy(engine, x, y), _forced(name, engine, last, cases)
        rows.append(Row(name, f"chain, exit {last}", _at(right, last), engine.artifact.bytes, case))
    if "fused" not in engines:
        return rows
    engine = engines["fused"]
    right = _accuracy(engine, x, y)
    for k in range(last, -1, -1):
        case = _forced(name, engine, k, cases)
        size, target = (engine.artifact.bytes, TARGETS.get(form)) if k == last else (None, None)
        rows.append(Row(name, f"fused, exit {k}", _at(right, k), size, case, target))
    for point in _points(bundle, engine.artifact):
        accuracy, rates = _followed(engine, point, x, y)
        shares = "/".join(f"{100 * r:.0f}" for r in rates)
        weights = {f"{name}, fused {k}": r for k, r in enumerate(rates)}
        rows.append(Row(name, f"fused, {_asked(point)} ({shares} %)", accuracy, None, weights))
    return rows


def _accuracy(engine: Engine, x: Array | None, y: Array | None) -> list[float] | None:
    """Of every exit, on this artifact."""
    if x is None:
        return None
    return [float(a) for a in engine.record(x, y).correct.mean(1, dtype=np.float64)]


def _at(accuracies: list[float] | None, k: int) -> float | None:
    return None if accuracies is None else accuracies[k]


def _forced(name: str, engine: Engine, k: int, cases: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Time it forced to exit k."""
    case = f"{name}, {engine.artifact.layout} {k}"
    policy = fixed_exit(k, engine.exits, engine.artifact.score or "maxprob")
    example, driver = engine.example(), engine.driver
    cases[case] = lambda: driver.run(example, policy, None)
    return {case: 1.0}


def _points(bundle: edgeexit.Bundle, artifact: Artifact) -> list[OperatingPoint]:
    points = [bundle.operating_point(n) for n in bundle.manifest.policies]
    return [p for p in points if p.artifact == artifact.name]


def _followed(
    engine: Engine, point: OperatingPoint, x: Array | None, y: Array | None
) -> tuple[float | None, Sequence[float]]:
    """Accuracy and exit rates on the rows; without rows, the rates that were promised."""
    if x is None:
        return None, [float(r) for r in point.expected["exit_rates"]]
    engine.follow(point)
    batch = engine.run_batch(x)
    rates = np.bincount(batch.exits, minlength=engine.exits) / len(batch.exits)
    return float(np.mean(batch.outputs.argmax(-1) == y)), [float(r) for r in rates]


def _asked(point: OperatingPoint) -> str:
    drop = point.asked.get("accuracy_drop")
    return point.name if drop is None else f"-{100 * drop:g} point"


def _measured(row: Row, rows: Sequence[Row], seconds: dict[str, NDArray[Any]]) -> dict[str, Any]:
    spent = sum(w * seconds[c] for c, w in row.timed.items())
    p10, p50, p90 = (float(np.quantile(spent, q) * 1e6) for q in (0.1, 0.5, 0.9))
    figures: dict[str, Any] = {"form": row.form, "network": row.network, "accuracy": row.accuracy, "bytes": row.bytes}
    figures |= {"p50_us": p50, "p10_us": p10, "p90_us": p90}
    for network, key in (("whole", "of_whole"), (_BARE, "of_bare")):
        base = next((r for r in rows if (r.form, r.network) == (row.form, network)), None)
        if base is not None:
            figures |= {f"{key}_{k}": v for k, v in ratios(spent, seconds[next(iter(base.timed))]).items()}
    if row.target is not None and "of_whole_ratio" in figures:
        figures |= {"target": row.target, "met": figures["of_whole_ratio"] <= row.target}
    return figures


def _text(table: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, for people."""
    lines = ["| form | network | accuracy % | bytes | us (p10 to p90) | of whole (p10 to p90) | target | of no score |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for r in table:
        accuracy = "" if r["accuracy"] is None else f"{100 * r['accuracy']:.2f}"
        size = "" if r["bytes"] is None else f"{r['bytes']:,}"
        ratio = ""
        if "of_whole_ratio" in r and r["network"] != "whole":
            ratio = f"{r['of_whole_ratio']:.2f} ({r['of_whole_low']:.2f} to {r['of_whole_high']:.2f})"
        target = f"{r['target']:.2f} {'met' if r['met'] else 'missed'}" if "target" in r else ""
        time = f"{r['p50_us']:.1f} ({r['p10_us']:.1f} to {r['p90_us']:.1f})"
        bare = f"{r['of_bare_ratio']:.2f}" if "of_bare_ratio" in r and r["network"] != _BARE else ""
        lines.append("| " + " | ".join([r["form"], r["network"], accuracy, size, time, ratio, target, bare]) + " |")
    return "\n".join(lines)


def _options(engine: Engine) -> str:
    """What the engine's library was opened with, where the backend says so."""
    models = [getattr(m, "model", m) for m in engine.driver.models]  # type: ignore[attr-defined]
    options = {k: v for m in models for k, v in getattr(m, "options", {}).items()}
    return ", ".join(f"{k}={v}" for k, v in options.items()) or "the backend's own"


def _grouped(options: dict[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, text in options.items():
        groups.setdefault(text, []).append(name)
    return groups


if __name__ == "__main__":
    main()
