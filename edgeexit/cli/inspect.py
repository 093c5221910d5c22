"""`edgeexit inspect` and `edgeexit verify`"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeexit.bench.verify import verify as verify_bundle
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.codec import to_json
from edgeexit.bundle.manifest import Manifest
from edgeexit.bundle.shipped import is_shipped
from edgeexit.cli.common import (
    artifact_option,
    bundle_argument,
    count,
    json_option,
    percent,
    print_json,
    printable,
    table,
    threads_option,
)
from edgeexit.cli.lm_shown import lm_text
from edgeexit.common.environment import environment, environment_line
from edgeexit.common.measures import MEASURES
from edgeexit.errors import BundleError


def describe(bundle: Bundle) -> dict[str, Any]:
    """The manifest, whether the bundle is inside the package, the operating points, and accuracies where known."""
    points = {name: bundle.operating_point(name).to_dict() for name in bundle.manifest.policies}
    default = bundle.default_point()
    return {
        **to_json(bundle.manifest),
        "shipped": is_shipped(bundle.path),
        "operating_points": points,
        "default_point": None if default is None else default.name,
        "accuracy": accuracies(bundle),
    }


def accuracies(bundle: Bundle) -> dict[str, Any] | None:
    """Per exit, accuracy on the calibration rows, or the error rate of speech; None = not calibrated, or no labels."""
    for artifact in bundle.manifest.artifacts:
        if artifact.calibration is None:
            continue
        arrays = bundle.arrays(artifact.calibration)
        measure = "correct" if "correct" in arrays else "agreement"
        values = arrays.get(measure)
        count = len(bundle.manifest.exits)
        if (
            values is None
            or values.ndim != 2
            or values.shape[1] != count
            or not len(values)
            or values.dtype.kind != "f"
        ):
            raise BundleError(f"{bundle.path}: {artifact.calibration.path} needs {measure!r} (n, {count})")
        means = values.mean(0, dtype=float)
        shown = "accuracy" if measure == "correct" else "agreement with the last exit"
        if measure == "correct" and bundle.manifest.speech is not None:  # what answers are worth is 1 less their edits
            shown, means = "error rate", 1 - means
        return {
            "measure": shown,
            "exits": [float(v) for v in means],
            "n": len(values),
            "artifact": artifact.name,
        }
    return None


def exits_table(bundle: Bundle) -> str:
    """One line per exit: cost, size, what is carried on, accuracy when known."""
    m = bundle.manifest
    known = accuracies(bundle)
    several = any(e.members > 1 or e.learned for e in m.exits)
    head = ["exit", "name", "MACs", "of last", "alone", "parameters", "weights", "carries on", "accuracy"]
    if known is not None and known["measure"] != "accuracy":
        head[-1] = known["measure"].removesuffix(" with the last exit")
    rows = [head + ["gives"] * several]
    last = m.exits[-1].macs
    for k, (e, s) in enumerate(zip(m.exits, m.stages, strict=True)):
        rows.append(
            [
                str(k),
                e.name if len(e.name) <= 40 else e.name[:37] + "...",
                count(e.macs),
                percent(None if not last or e.macs is None else e.macs / last),
                count(e.prefix_macs),
                count(s.parameters),
                f"{s.weight_bytes / 1024:.1f} KiB",
                "-" if s.cut_bytes is None else f"{s.cut_bytes / 1024:.1f} KiB",
                percent(known["exits"][k], 2) if known else "-",
            ]
            + ([f"{e.members} head{'s' * (e.members > 1)}{', learned score' * (e.learned is not None)}"] * several)
        )
    return table(rows, right=range(2, 9))


def _artifacts(m: Manifest) -> str:
    """Size and error; where known, how much runs quantized, and what a microcontroller needs."""
    kernels, memory = _noted(m, "int8_kernels", _is_count), _noted(m, "tflite_memory", _is_memory)
    memory = {n: f for n, f in memory.items() if m.artifact(n).precision != "fp32"} or memory
    rows = [["artifact", "size", "largest error", "score", *["quantized"] * bool(kernels)]]
    for a in m.artifacts:
        worst = "-" if a.check is None else f"{max(a.check.max_error):.1e}"
        counted = " ".join(f"{q}/{n}" for q, n in kernels.get(a.name, []))
        rows.append([a.name, f"{a.bytes / 1024:.1f} KiB", worst, a.score or "any", *[counted] * bool(kernels)])
    lines = [table(rows, right=(1, 2))]
    if memory:
        rows = [["on a microcontroller", "flash", "tensor arena", "with tables"]]
        for name, files in memory.items():
            for k, f in enumerate(files):
                which = f"{name}, {'exit' if '-prefix-' in name else 'stage'} {k}" if len(files) > 1 else name
                sizes = f["flash"], f["arena"], f["arena"] + f["tables"]
                rows.append([which, *(f"{size / 1024:.1f} KiB" for size in sizes)])
        lines.append("\n" + table(rows, right=(1, 2, 3)))
    return "\n".join(lines)


def _noted(m: Manifest, key: str, fits: Callable[[Any], bool]) -> dict[str, Any]:
    """What the exporter noted about artifacts; a bundle's notes are free JSON, so nothing is taken for granted."""
    noted = m.provenance.get(key)
    if not isinstance(noted, dict):
        return {}
    names = {a.name for a in m.artifacts}
    return {n: v for n, v in noted.items() if n in names and isinstance(v, list) and all(fits(e) for e in v)}


def _is_count(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) for n in value)


def _is_memory(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(n), int) for n in ("flash", "arena", "tables"))


@click.command()
@bundle_argument
@json_option
def inspect(bundle: Path, as_json: bool) -> None:
    """Show a bundle: exits with cost and size, artifacts, operating points.

    BUNDLE is a folder, a .zip, or the name of the bundle inside the package: digits.

    MACs are cumulative, earlier heads included; "alone" is a network with that exit only. Parameters and
    weights are the stage's own. "-" means not known.
    """
    opened = Bundle.open(bundle)
    if as_json:
        print_json(describe(opened))
        return
    m = opened.manifest
    inputs = ", ".join(f"{i.name} {i.dtype}[{','.join(map(str, i.shape))}]" for i in m.inputs)
    batch = "any number" if m.batch == "dynamic" else "one"
    lines = [f"{m.name}: {m.task}, {len(m.exits)} exits, {inputs}, {batch} per call\n", exits_table(opened)]
    if m.speech is not None:
        f = m.speech.features
        lines[0] += (
            f"hears {f.sample_rate} Hz in {f.bins} bands from {f.low_hz:g} to {f.top_hz:g} Hz (features {f.digest}"
            f"{', made in the network' if all(len(t.shape) < 3 for t in m.inputs) else ''}), "
            f"writes {len(m.speech.tokens)} tokens, one per {1000 * m.speech.frame_seconds:g} ms\n"
        )
    lines[0] += "".join(f"pictures become {n!r}: {printable(str(p))}\n" for n, p in m.preprocess.items())
    lines[0] += "".join(f"{n!r} on {r.rows} calibration rows: {r}\n" for n, r in m.ranges.items())
    if is_shipped(opened.path):
        lines[0] += f"inside the package: {opened.path}\n"
    if m.lm is not None:
        lines = [lm_text(m)]
    if m.states:
        rows = [["stage", "state", "numbers", "next value"]]
        rows += [
            [str(k), s.input.name, "x".join(map(str, s.input.shape)) + f" {s.input.dtype}", s.output]
            for k, stage in enumerate(m.stages)
            for s in stage.states
        ]
        lines.append("\n" + table(rows))
    if known := accuracies(opened):
        lines.append(f"({known['measure']} on {known['n']} calibration rows, {known['artifact']})")
    if m.lm is None:
        lines.append("\n" + _artifacts(m))
    if m.policies:
        rows = [["operating point", "artifact", "asked", "expected cost", "expected", "exit rates"]]
        default = opened.default_point()
        for name in m.policies:
            p = opened.operating_point(name)
            key = next((k for k in MEASURES if k in p.expected), None)
            rows.append(
                [
                    name + " (default)" * (default is not None and name == default.name),
                    p.artifact or "-",
                    ", ".join(f"{printable(k)} {v:g}" for k, v in p.asked.items()),
                    percent(p.expected.get("cost")),
                    "-" if key is None else f"{key} {percent(p.expected[key], 2)}",
                    " ".join(percent(r, 0) for r in p.expected.get("exit_rates", ())),
                ]
            )
        lines.append("\n" + table(rows, right=(3,)))
    shown = {k: v for k, v in m.provenance.items() if "sha256" not in k and not isinstance(v, dict | list)}
    source = ", ".join(f"{k} {v}" for k, v in shown.items())
    lines.append(f"\nmade from: {printable(source)}")
    click.echo("\n".join(lines))  # at once: a damaged file is an error, not half an answer


@click.command()
@bundle_argument
@artifact_option
@threads_option
@json_option
def verify(bundle: Path, artifact: str | None, threads: int, as_json: bool) -> None:
    """Run a bundle's test vectors on this machine and compare outputs and exits.

    Exit code 1 if an artifact fails, or if none can run here.
    """
    opened = Bundle.open(bundle)
    results = verify_bundle(opened, artifact, threads)
    failed = any(v.passed is False for v in results) or not any(v.passed for v in results)
    if as_json:
        print_json(
            {"passed": not failed, "artifacts": [vars(v) for v in results], "environment": environment(threads=threads)}
        )
    else:
        rows = [["artifact", "result", "largest error", "tolerance", "exits agree", "inputs"]]
        for v in results:
            result = {True: "passed", False: "FAILED", None: "not run"}[v.passed]
            worst = f"{max(v.max_error):.1e}" if v.max_error else "-"
            agree = "-" if v.exits_agree is None else f"{v.exits_agree} of {v.inputs}"
            tolerance = "-" if v.tolerance is None else f"{v.tolerance:.0e}"
            rows.append([v.artifact, result, worst, tolerance, agree, str(v.inputs)])
        click.echo(table(rows, right=(2, 3, 4, 5)))
        for v in results:
            if v.reason:
                click.echo(f"{v.artifact}: {v.reason}")
        click.echo(environment_line(environment(threads=threads)))
    if failed:
        sys.exit(1)
