"""Command `edgeexit evaluate`: error rates of a speech model per exit and per policy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgeexit.calibrate.spec import Split
from edgeexit.cli.calibration_options import split_options
from edgeexit.cli.common import (
    artifact_option,
    bundle_argument,
    json_option,
    names,
    numbers,
    percent,
    print_json,
    steps,
    table,
    threads_option,
)
from edgeexit.cli.speech import error_option, record_sound
from edgeexit.common.environment import environment, environment_line
from edgeexit.common.files import write_atomic
from edgeexit.engine.loading import load
from edgeexit.report import sweep_json, sweep_png, write_report
from edgeexit.speech.evaluate import DROP, Evaluation
from edgeexit.speech.evaluate import evaluate as evaluate_rows
from edgeexit.speech.record import Recording


@click.command()
@bundle_argument
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--design-data", type=click.Path(path_type=Path), help="Other speech to choose on; then all of DATA measures."
)
@split_options("Share of DATA to choose on, without --design-data.")
@error_option
@click.option(
    "--drop",
    type=float,
    default=DROP,
    show_default=True,
    help="Error rate that thresholds may add on the design rows, a fraction.",
)
@click.option("--policies", metavar="A,B", help="Policies of the curves, as in `edgeexit sweep`. [default: all]")
@click.option("--plot", type=click.Path(path_type=Path), help="PNG: error rate against cost and real-time factor.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder for the whole report of `edgeexit sweep`.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="File to save the recorded rows of DATA to (.npz), for --records."
)
@artifact_option
@threads_option
@json_option
def evaluate(
    bundle: Path,
    data: Path,
    design_data: Path | None,
    split: Split,
    error: str,
    drop: float,
    policies: str | None,
    plot: Path | None,
    out: Path | None,
    save: Path | None,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Measure word error rates of a speech model per exit and per policy.

    DATA is an .npz (samples, starts, texts, sample_rate), a list with a .wav and its text per line and a tab
    between, or a folder of .wav files with a .txt each. Thresholds are chosen on one part of it, or on --design-data,
    and measured on the other. The first line says whether adaptive exits beat the best exit alone. Times are measured
    on this machine while recording. A network with states runs chunk by chunk, and exits are chosen per utterance.

    \b
    Examples:
      edgeexit evaluate digits.edgeexit test.npz --design-data dev.npz
      edgeexit evaluate digits.edgeexit recordings.tsv --error cer --plot wer.png --json
    """
    engine = load(bundle, artifact=artifact, exit=-1, threads=threads)
    recording = record_sound(engine, data, error)
    if save is not None:
        recording.rows.save(save)
    if design_data is None:
        chosen_on, held_out = recording.split(split.design, split.seed)
    else:
        chosen_on, held_out = record_sound(engine, design_data, error), recording
    where = environment(engine.backend.version(), threads)
    with steps("evaluating") as tell:
        result = evaluate_rows(
            chosen_on.rows,
            held_out,
            drop=drop,
            policies=names(policies),
            alphas=() if out is None else numbers("0.01,0.02,0.05,0.1") or (),
            environment=where,
            seed=split.seed,
            progress=tell,
        )
    assert result.sweep is not None
    files = {} if out is None else write_report(result.sweep, out)
    if plot is not None:
        write_atomic(plot, sweep_png(result.sweep))
        files["plot"] = plot
    if as_json:
        shown = {k: v for k, v in vars(result).items() if k not in ("sweep", "exits", "taken")}
        print_json(
            {
                "verdict": result.sweep.verdict.text,
                **shown,
                "exits": [asdict(e) for e in result.exits],
                "taken": [asdict(t) for t in result.taken],
                "sweep": sweep_json(result.sweep),
                "files": {kind: str(path) for kind, path in files.items()},
            }
        )
        return
    click.echo(evaluation_text(result, chosen_on))
    click.echo(environment_line(where))
    for path in files.values():
        click.echo(f"wrote {path}")


def evaluation_text(evaluation: Evaluation, design: Recording) -> str:
    """The verdict, the exits, the policies, and how well scores rank."""
    assert evaluation.sweep is not None
    sweep, what = evaluation.sweep, evaluation.error
    timed = sweep.audio_seconds is not None and sweep.seconds is not None
    exits = [
        ["exit", "cost alone", "cost inside", "WER", "CER", "subst.", "deleted", "inserted", *["real-time"] * timed]
    ]
    for e, s in zip(evaluation.exits, sweep.statics, strict=True):
        counts = [str(e.substitutions), str(e.deletions), str(e.insertions)]
        time = [_factor(None if s.seconds is None else s.seconds / (sweep.audio_seconds or 1))] * timed
        exits.append(
            [str(s.exit), f"{s.cost:.3f}", f"{s.cost_inside:.3f}", percent(e.wer), percent(e.cer), *counts, *time]
        )
    ways = [["exits taken by", "cost", "depth", what, "above the last exit", *["real-time"] * timed, "exit rates"]]
    for t in evaluation.taken:
        rates = " / ".join(f"{100 * r:.0f}" for r in t.exit_rates)
        more = "0" if t.more == 0 and t.exit_rates[-1] == 1 else f"{100 * t.more:+.2f} ± {100 * t.more_half:.2f}"
        time = [_factor(t.real_time_factor)] * timed
        ways.append([t.name, f"{t.cost:.3f}", f"{t.depth:.2f}", percent(t.error), more, *time, rates])
    ranks = [["score", *(f"exit {k}" for k in range(len(evaluation.exits))), "ms at an exit"]]
    for name, values in evaluation.ranking.items():
        spent = evaluation.scoring_s.get(name)
        cost = "-" if not spent else f"{1000 * sum(spent) / len(spent):.3f}"
        ranks.append([name, *("-" if v is None else f"{v:.3f}" for v in values), cost])
    right = range(1, 12)
    return "\n".join(
        [
            sweep.verdict.text,
            "",
            f"{evaluation.n:,} utterances, {evaluation.exits[0].words:,} words, {evaluation.audio_s:.0f} s of sound; "
            f"policies chosen on {design.rows.n:,} others of {design.rows.name} to add at most "
            f"{100 * evaluation.drop:g} points of {what}.",
            "",
            table(exits, right),
            "",
            table(ways, range(1, len(ways[0]) - 1)),
            "",
            "How well scores tell utterances without an error from others (AUROC):",
            table(ranks, right),
            "",
        ]
    )


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
