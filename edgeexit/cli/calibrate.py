"""`edgeexit calibrate`"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgeexit.bundle.bundle import Bundle
from edgeexit.calibrate import calibrate as calibrate_records
from edgeexit.calibrate.budget import Budget
from edgeexit.calibrate.cautions import cautions
from edgeexit.calibrate.guarantees.risk import METHODS, Guarantee, Method
from edgeexit.calibrate.on_bundle import calibrate_artifact, calibrate_rows
from edgeexit.calibrate.search.candidates import DEFAULT_FAMILY, FAMILIES
from edgeexit.calibrate.search.eero import EERO_SCORE, MODES
from edgeexit.calibrate.temperature import fit_useful_temperatures
from edgeexit.cli.common import (
    about,
    artifact_option,
    check_source,
    data_note,
    json_option,
    percent,
    print_json,
    read_data,
    say,
    source_options,
    steps,
    table,
    threads_option,
)
from edgeexit.cli.speech import error_option, is_speech, record_sound
from edgeexit.common.files import write_atomic
from edgeexit.common.measures import MEASURES
from edgeexit.engine.engine import Engine
from edgeexit.engine.loading import load
from edgeexit.errors import BackendMissing, DataError, PolicyError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Patience, Policy, QExit, Threshold, Window, fixed_exit
from edgeexit.policy.scores import NAMES
from edgeexit.policy.sets import SET_MODES, ConformalSets, SetMode
from edgeexit.records.classification import Records, class_outputs
from edgeexit.records.transcripts import load_rows


@click.command()
@source_options
@click.option(
    "--policy",
    type=click.Choice(FAMILIES),
    help="Family of policies: thresholds per exit by search, one threshold for all exits, thresholds that follow from "
    "exit rates (EERO), a window for applications that reject, the same on an ensemble's uncertainty, probability of "
    "having stopped, equal answers in a row, one exit always. [default: eero; with --guarantee a threshold per exit]",
)
@click.option(
    "--score",
    type=click.Choice(list(NAMES)),
    metavar="NAME",
    help=f"What thresholds compare: {', '.join(NAMES)}. [default: the artifact's; qute: what ranks errors best]",
)
@click.option("--budget", help="Mean cost allowed: 0.3 of the last exit's, 4MMACs, or 2.5ms on this device.")
@click.option("--accuracy", type=float, help="Accuracy wanted.")
@click.option("--accuracy-drop", type=float, help="Accuracy that may be lost against the last exit, e.g. 0.01.")
@click.option("--guarantee", metavar="LOSS<=A@C", help="A bound to be proven, e.g. accuracy_gap<=0.01@0.95; see below.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Of the proof: fixed-sequence test, betting bound, or (weaker, no confidence) conformal risk control. "
    "[default: ltt]",
)
@click.option("--sets", type=float, metavar="ALPHA", help="Also make prediction sets that miss this share at most.")
@click.option(
    "--set-mode",
    type=click.Choice(SET_MODES),
    help="Of the sets: hold at any exit, at each exit taken, or over all inputs. [default: nested]",
)
@click.option("--selective", metavar="cov@R|risk@C", help="Window, qute: coverage at a risk, or risk at a coverage.")
@click.option("--pass-rate", type=float, help="Window, qute: share of the rows that may go on. [default: 0.2]")
@click.option("--first", type=int, help="Window, qute: the exit that has it. [default: 1; qute: the last but one]")
@click.option("--mode", type=click.Choice(MODES), help="EERO: keep the budget, or use it fully. [default: paper]")
@click.option("--beta", type=float, help="EERO: weight of the prior. [default: chosen on the design rows]")
@click.option("--prior", type=click.Choice(["cost", "uniform"]), help="EERO: cheap exits first, or all alike.")
@click.option("--spend", type=click.Choice(["needed", "all"]), help="EERO: what helps, or the whole budget.")
@click.option("--temperature", is_flag=True, help="First fit a temperature per exit on the design rows and store it.")
@click.option(
    "--design", type=float, default=0.5, show_default=True, help="Share of rows to choose on; the rest measures."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of that split.")
@click.option("--name", help="Name of the operating point. [default: made of the target]")
@click.option("--default/--no-default", default=None, help="Make it the bundle's default. [default: only the first]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="With --records: where to write the operating point (JSON)."
)
@error_option
@artifact_option
@threads_option
@json_option
def calibrate(
    bundle: Path | None,
    data: Path | None,
    records: Path | None,
    policy: str | None,
    score: str | None,
    budget: str | None,
    accuracy: float | None,
    accuracy_drop: float | None,
    guarantee: str | None,
    method: Method | None,
    sets: float | None,
    set_mode: SetMode | None,
    selective: str | None,
    pass_rate: float | None,
    first: int | None,
    mode: str | None,
    beta: float | None,
    prior: str | None,
    spend: str | None,
    temperature: bool,
    design: float,
    seed: int,
    name: str | None,
    default: bool | None,
    out: Path | None,
    error: str,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Choose thresholds for a budget or an accuracy, on the artifact that ships.

    Thresholds are chosen on one part of the rows, by cross-fitting and with one standard error of margin; what to
    expect of them is measured on the other part, with 95 % intervals and the last exit beside it. Each part needs 20
    rows; a drop of 1 point takes some 400 in all to be worth asking for. The operating point is stored in the bundle,
    and runs on the artifact it was made on only.

    --guarantee turns the other part into a proof: with confidence C over its rows, the loss on data like them is
    at most A. Losses: disagreement (with the last exit; needs no labels), accuracy_gap (wrong where the last exit
    is right), brier_gap, and of speech wer_gap or cer_gap (edits beyond the last exit's per word or character);
    accumulated_ before the first two bounds them at every exit. Too few rows are refused with the number needed.

    Of speech, accuracy is 1 less the error rate: --accuracy-drop 0.005 allows half a point more of it.

    \b
    Examples:
      edgeexit calibrate digits.edgeexit --data val.npz --accuracy-drop 0.01
      edgeexit calibrate digits.edgeexit --data val.npz --budget 0.5 --artifact chain --score margin
      edgeexit calibrate digits.edgeexit --data val.npz --policy eero --budget 0.2ms
      edgeexit calibrate digits.edgeexit --data val.npz --guarantee "accuracy_gap<=0.02@0.95"
      edgeexit calibrate speech.edgeexit --data dev.npz --guarantee "wer_gap<=0.02@0.95"
      edgeexit calibrate --records recorded.npz --policy window --selective cov@0.02
      edgeexit calibrate qute.edgeexit --data val.npz --policy qute --selective risk@0.8
      edgeexit calibrate --records recorded.npz --budget 0.3 --json
    """
    check_source("calibrate", bundle, data, records)
    if out is not None and records is None:
        raise DataError("--out goes with --records; with a bundle the operating point is stored in the bundle")
    if default is not None and records is not None:
        raise DataError("--default goes with a bundle; with --records nothing is stored in one")
    for option, without, alone in (
        ("--method", "--guarantee", method is not None and guarantee is None),
        ("--set-mode", "--sets", set_mode is not None and sets is None),
        ("--score", "a policy that compares scores", score is not None and policy == "patience"),
    ):
        if alone:
            raise PolicyError(f"{option} goes with {without}")
    of_policy: dict[str, dict[str, Any]] = {
        "eero": {"mode": mode, "beta": beta, "prior": prior, "spend": spend},
        "window": {"pass_rate": pass_rate, "first": first},
    }
    family = policy or DEFAULT_FAMILY
    kin = "window" if family == "qute" else family
    for name_, values in of_policy.items():
        of_policy[name_] = {k: v for k, v in values.items() if v is not None}
        if of_policy[name_] and kin != name_:
            raise PolicyError(f"--{next(iter(of_policy[name_])).replace('_', '-')} goes with --policy {name_}")
    allowed = None if budget is None else Budget.parse(budget)
    wish: dict[str, Any] = {
        "policy": policy,
        "options": of_policy.get(kin, {}),
        "selective": selective,
        "sets": sets,
        "set_mode": set_mode or "nested",
        "guarantee": None if guarantee is None else Guarantee.parse(guarantee, method or "ltt"),
        "accuracy": accuracy,
        "accuracy_drop": accuracy_drop,
        "name": name,
    }
    if records is not None:
        found = load_rows(records)
        if allowed is not None:
            found, wish["budget"] = allowed.on(found)
        chosen_on, held_out = found.split(design, seed)
        temperatures = _useful(class_outputs(chosen_on, "temperatures")) if temperature else None
        own_score = EERO_SCORE if policy == "eero" and EERO_SCORE in chosen_on.score_names else None
        point = calibrate_records(
            chosen_on,
            held_out=held_out,
            score=score or own_score,
            temperatures=temperatures,
            **wish,
        )
        if out is not None:
            write_atomic(out, json.dumps(point.to_dict(), indent=1) + "\n")
    else:
        assert bundle is not None and data is not None
        engine = load(bundle, artifact=artifact, exit=-1, threads=threads)
        score = score or engine.artifact.score or (None if policy == "qute" else engine.default_score)
        _check_family(engine, family, score or engine.default_score)
        original = engine.bundle
        if is_speech(engine, data):
            if temperature:
                raise DataError("--temperature is fitted to true classes, and speech has texts")
            rows = record_sound(engine, data, error).rows
            changed, point = calibrate_rows(
                engine, rows, data=data_note(data), design=design, seed=seed, budget=allowed, default=default,
                score=score, **wish,
            )  # fmt: skip
        else:
            changed, point = _on_arrays(
                engine, data, temperature, score, wish, design=design, seed=seed, budget=allowed, default=default,
                threads=threads,
            )  # fmt: skip
        _tell_what_went(original, changed, point)
        followed = _followed(changed, point)
    warnings = cautions(point)
    for sentence in warnings:
        say(f"WARNING: {sentence}")
    if as_json:
        if bundle is not None:
            say(followed)
        print_json({**point.to_dict(), "warnings": warnings})
    else:
        click.echo(_text(point))
        if bundle is not None:
            click.echo(f"stored in {bundle} as {point.name!r}: edgeexit run {bundle} --policy {point.name} --input ...")
            click.echo(followed)


def _on_arrays(
    engine: Engine,
    data: Path,
    temperature: bool,
    score: str | None,
    wish: Mapping[str, Any],
    *,
    design: float,
    seed: int,
    budget: Budget | None,
    default: bool | None,
    threads: int,
) -> tuple[Bundle, OperatingPoint]:
    """Record a file of arrays, with temperatures first where they are asked for, and calibrate on that."""
    original = engine.bundle
    inputs, labels = read_data(data, original.manifest)
    with about(data), contextlib.ExitStack() as stack:
        if temperature:
            copy = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeexit-"))
            engine = _with_temperatures(engine, inputs, labels, design, seed, threads, Path(copy))
            left, before = engine.bundle.manifest.policies, original.manifest
            if (before.default_policy or next(iter(before.policies), None)) not in left and default is None:
                default = True  # in place of the one that goes with the temperatures
        with steps("recording") as tell:
            changed, point = calibrate_artifact(
                engine, inputs, labels, data=data_note(data), design=design, seed=seed, budget=budget,
                default=default, progress=tell, score=score, **wish,
            )  # fmt: skip
        return (changed if changed.path == original.path else original.become(changed)), point


def _check_family(engine: Engine, policy: str, score: str) -> None:
    """Refuse, before minutes of recording, a policy that this artifact could not run."""
    last = engine.exits - 1
    trials: dict[str, Policy] = {
        "patience": Patience(1),
        "fixed": fixed_exit(last, last + 1, score),
        "qexit": QExit(0.5, score),
        "window": Window((0.0,) * last, (1.0,) * last, 0.5, score),
    }
    trials["qute"] = trials["window"]
    engine.driver.fits(trials.get(policy) or Threshold((1.0,) * last, score))


def _tell_what_went(before: Bundle, after: Bundle, point: OperatingPoint) -> None:
    """Say which operating points are not there any more."""
    if gone := sorted(set(before.manifest.policies) - set(after.manifest.policies)):
        gone = [f"{n} (the default)" if n == before.manifest.default_policy else n for n in gone]
        say(f"dropped with the temperatures they were calibrated under: {', '.join(gone)}")
    if point.name in before.manifest.policies:
        of = before.operating_point(point.name).artifact or "recorded outputs"
        say(f"operating point {point.name!r} was there before (of {of}) and is replaced; --name keeps both")


def _followed(bundle: Bundle, point: OperatingPoint) -> str:
    """Which operating point is followed where none is named, in one line."""
    default = bundle.manifest.default_policy
    if default == point.name:
        return f"{point.name!r} is the bundle's default: followed where no --policy is named"
    if default is None:
        first = next(iter(bundle.manifest.policies))
        return f"the bundle names no default, so that its first operating point, {first!r}, is it; --default names one"
    return f"the bundle's default stays {default!r}; --default makes it {point.name!r}"


def _with_temperatures(
    engine: Engine, inputs: dict[str, Any], labels: Any, design: float, seed: int, threads: int, folder: Path
) -> Engine:
    """The artifact with fitted temperatures, in a copy of its bundle: what fails later leaves the bundle as it was."""
    if labels is None:
        raise DataError("--temperature needs labels: the data file has no y")
    try:
        from edgeexit_exporters.temperatures import apply_temperatures
    except ImportError as e:
        raise BackendMissing(f"--temperature rewrites model files ({e}): pip install 'edgeexit[onnx-export]'") from e
    with steps("recording for temperatures") as tell:
        # From the raw outputs: what an artifact was given before must not count twice.
        records = engine.record(inputs, labels, progress=tell)
    chosen_on, _ = records.split(design, seed)
    temperatures = _useful(chosen_on)
    if temperatures == engine.artifact.temperatures:
        return engine
    copy = shutil.copytree(engine.bundle.path, folder / engine.bundle.path.name)
    bundle = apply_temperatures(Bundle.open(copy), engine.artifact.name, temperatures)
    return load(bundle, artifact=engine.artifact.name, exit=-1, threads=threads)


def _useful(design: Records) -> tuple[float, ...]:
    """A temperature per exit, 1 where it gains nothing; says which."""
    found = fit_useful_temperatures(design)
    for k, t in enumerate(found):
        gain = f"NLL {t.nll_before:.4f} -> {t.nll_after:.4f}"
        say(
            f"exit {k}: temperature {t.value:.3f}, {gain}"
            if t.skipped is None
            else f"exit {k}: no temperature, {t.skipped}"
        )
    return tuple(t.value for t in found)


def _text(point: OperatingPoint) -> str:
    e = point.expected
    measure = next(m for m in MEASURES if m in e)
    table_ = point.policy.to_dict()
    numbers = {k: v for k, v in table_.items() if k not in ("kind", "score", "temperatures") and v != []}
    shown = "; ".join(("" if k == "thresholds" else f"{k} ") + _numbers(v) for k, v in numbers.items())
    rows = [
        ["asked", ", ".join(f"{k} {v:g}" for k, v in point.asked.items())],
        ["policy", f"{table_['kind']}" + (f" on {table_['score']}" if "score" in table_ else "") + f": {shown}"],
        ["expected cost", f"{percent(e['cost'])} of the last exit's"],
        [
            f"expected {measure}",
            f"{percent(e[measure], 2)} ({_points(e[f'{measure}_low'])} to {percent(e[f'{measure}_high'])}), last exit "
            f"{percent(e[f'last_exit_{measure}'], 2)}",
        ],
        [
            "drop",
            f"{100 * e['drop']:.2f} points ({_points(e['drop_low'])} to {_points(e['drop_high'])}) below the last exit",
        ],
        ["exit rates", "  ".join(percent(r) for r in e["exit_rates"])],
        ["measured on", str(e["measured_on"])],
        ["promise", "none: these are estimates" if point.promise is None else _promise(point.promise)],
    ]
    if "tau" in e:
        risk = "no row is"
        if e["risk"] is not None:
            risk = f"risk {percent(e['risk'], 2)} ({_points(e['risk_low'])} to {percent(e['risk_high'])})"
        rows.insert(4, ["accepted", f"score >= {e['tau']:.6g}: coverage {percent(e['coverage'])}, {risk}"])
    if point.sets is not None:
        sets = ConformalSets.from_dict(point.sets)
        rows.append(["sets", f"{sets.promise} (mean size {e['set_size']:.2f} on the rows that made them)"])
    if "allowed" in e:
        rows.insert(3, ["budget", f"{percent(e['allowed'])} allowed, {percent(e['planned'])} planned"])
    return table(rows)


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _numbers(value: Any) -> str:
    return ", ".join(n if isinstance(n, str) else f"{n:.6g}" for n in (value if isinstance(value, list) else [value]))


def _promise(promise: Mapping[str, Any]) -> str:
    return f"{promise['text']} (n = {promise['n']}, {promise['test']}, measured {promise['measured']:.4g})"
