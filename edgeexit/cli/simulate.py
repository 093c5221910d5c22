"""Command `edgeexit simulate`: predicts the speed of decoding settings on this device."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeexit.cli.common import (
    bundle_argument,
    json_option,
    percent,
    print_json,
    read_text,
    say,
    steps,
    table,
    threads_option,
)
from edgeexit.cli.generate import costs_option, decoder_option, setting_arguments
from edgeexit.common.environment import environment_line
from edgeexit.common.files import read_json, write_atomic
from edgeexit.errors import DataError
from edgeexit.lm.costs import BUSY, Costs
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import text_of
from edgeexit.lm.tuning.consistency import Consistency, certify
from edgeexit.lm.tuning.traces import Trace
from edgeexit.lm.tuning.tune import TuningResult, sample_prompts, tune
from edgeexit.lm.tuning.verdict import Predicted

PROMPT_LETTERS, PROMPT_TOKENS = 40, 12
"""Longest prompt in the command that is printed."""


@click.command()
@bundle_argument
@click.option("--text", type=click.Path(path_type=Path), required=True, help="Text as in use, or an .npy of token ids.")
@click.option("--prompts", type=int, default=12, show_default=True, help="Prompts cut from the text.")
@click.option("--prompt-tokens", type=int, default=64, show_default=True, help="Tokens per prompt.")
@click.option("--max-tokens", type=int, default=128, show_default=True, help="Most tokens per answer.")
@click.option("--draft", type=click.IntRange(1, 64), default=8, show_default=True, help="Longest draft to try.")
@click.option("--n", type=click.IntRange(1), default=15, show_default=True, help="Rounds of the time measurement.")
@click.option("--top", type=click.IntRange(0), default=8, show_default=True, help="Settings to show; JSON has all.")
@costs_option
@click.option("--save-costs", type=click.Path(path_type=Path), help="Write the measured costs to this file.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a figure of the exits (.png).")
@click.option("--certify", metavar="ALPHA@CONF", help="Find calm's threshold with a promise, e.g. 0.1@0.9.")
@click.option("--repair", is_flag=True, help="With --certify: deeper stages compute skipped tokens later.")
@decoder_option
@threads_option
@json_option
def simulate(
    bundle: Path,
    text: Path,
    prompts: int,
    prompt_tokens: int,
    max_tokens: int,
    draft: int,
    n: int,
    top: int,
    costs: Path | None,
    save_costs: Path | None,
    plot: Path | None,
    certify: str | None,
    repair: bool,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Predict the speed of decoding settings here; recommend one.

    The model answers prompts from the text once, by plain decoding, and the guesses of every exit are recorded; with
    this device's measured times they give the speed of every exit, draft length and threshold, without decoding with
    any of them. The fastest is recommended, with the `generate` command for it; the expected speed comes from choosing
    on one half of the answers and measuring on the other. Speeds have a standard error (±), from answer to answer;
    differences within it are called undecided.

    \b
    Examples:
      edgeexit simulate code.edgeexit --text held-out.py
      edgeexit simulate code.edgeexit --text held-out.py --plot exits.png --save-costs costs.json
    """
    promised = None if certify is None else _promise(certify)
    chosen: dict[str, Any] = {"--artifact": artifact, "--threads": None if threads == 1 else threads,
                              "--max-tokens": None if max_tokens == 128 else max_tokens}  # fmt: skip
    if repair and promised is None:
        raise DataError("--repair is of calm, which --certify decodes with: give --certify, or leave it out")
    model = load_lm(bundle, artifact=artifact, threads=threads)
    ids = _ids(model, text)
    known = None if costs is None else Costs.from_dict(read_json(costs, DataError))
    with _progress() as tell:
        result = tune(model, ids, prompts=prompts, prompt_tokens=prompt_tokens, max_tokens=max_tokens, draft=draft,
                       costs=known, n=n, tell=tell)  # fmt: skip
    if save_costs is not None:
        write_atomic(save_costs, json.dumps(result.costs.to_dict()) + "\n")
    if plot is not None:
        from edgeexit.report.plots.exits import exits_png

        write_atomic(plot, exits_png(result, model.name))
    consistent = None
    if promised is not None:
        consistent = _certified(model, sample_prompts(model, ids, prompts, prompt_tokens), promised, max_tokens, repair)
    setting = result.verdict.setting
    chosen["--costs"] = (save_costs or costs) if setting.method == "del" else None
    command = _command(bundle, model, setting, result.traces[0], chosen)
    if as_json:
        print_json({"artifact": model.artifact, **result.to_dict(), "command": command,
                    "consistency": _document(consistent)})  # fmt: skip
        return
    click.echo(result.verdict.text)
    click.echo(f"\n{shlex.join(command)}")
    click.echo(f"\n{exits_text(result)}\n")
    click.echo(settings_text(_shown(result.verdict.predictions, top)))
    if not result.verdict.held:
        click.echo("speeds are on the one answer that settings were chosen on: ask for two prompts or more")
    if consistent is not None:
        click.echo(f"{consistent.setting}: {consistent.text}; measured {consistent.measured:.3f} on "
                   f"{consistent.n} prompts, {percent(consistent.early)} of tokens left early")  # fmt: skip
    if (busy := result.costs.busy) is not None and busy > BUSY:
        click.echo(
            f"the processor did other things for {percent(busy, 0)} of the measurement: speeds are those of a quiet "
            "machine, and doubtful; measure again on one"
        )
    tokens = sum(t.n for t in result.traces)
    counts = f"{len(result.traces)} answers of {tokens} tokens, costs n = {result.costs.n}"
    click.echo(f"{model.artifact}, {counts}, {environment_line(result.environment)}")


def exits_text(result: TuningResult) -> str:
    """Table of the exits."""
    rows = [["exit", "layer", "perplexity", "accuracy", "agreement", "on own text", "break-even", "best predicted"]]
    for e in result.exits:
        q = e.quality
        best = "-"
        if e.best is not None:
            s = e.best.simulated.setting
            best = f"{e.best.speedup:.2f}x (K {s.draft}" + (f", t {s.sure:g})" if s.sure else ")")
        rows.append([
            str(q.exit), str(q.layer), "-" if q.perplexity is None else f"{q.perplexity:.2f}", percent(q.accuracy),
            percent(q.agreement), percent(e.own), percent(e.needed), best,
        ])  # fmt: skip
    return table(rows, right=range(7))


def settings_text(predictions: list[Predicted]) -> str:
    """Table of the settings."""
    rows = [["predicted", "tokens/s", "times plain", "accepted", "tokens/round", "agreement"]]
    for p in predictions:
        s = p.simulated
        rows.append([
            str(s.setting), f"{s.tokens_per_second:.1f}", _speedup(p), percent(s.acceptance),
            f"{s.tokens / s.rounds:.2f}", percent(s.agreement),
        ])  # fmt: skip
    return table(rows, right=range(1, 6))


def _speedup(p: Predicted) -> str:
    return f"{p.speedup:.2f}" + ("" if p.error is None else f" ± {p.error:.2f}")


def _command(
    bundle: Path, model: LanguageModel, setting: Decoding, answered: Trace, options: dict[str, Any]
) -> list[str]:
    """The `generate` command for a setting, with the beginning of a prompt that was answered."""
    ids = answered.ids[: answered.start].tolist()
    line = ""
    if model.tokenizer is not None:
        text = text_of(model).decode(ids)
        line = max(text.splitlines(), key=len, default="").strip()[:PROMPT_LETTERS].strip()
    if line.isprintable() and line and not line.startswith("-"):
        prompt = ["--prompt", line]
    else:
        prompt = ["--prompt-ids", ",".join(map(str, ids[:PROMPT_TOKENS]))]
    chosen = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    return ["edgeexit", "generate", str(bundle), *prompt, *setting_arguments(setting), *chosen]


def _shown(predictions: Sequence[Predicted], top: int) -> list[Predicted]:
    """The fastest few, the best of every method, and the best of the lossy ones."""
    methods: set[str] = set()
    best = []
    for i, p in enumerate(predictions):
        method = p.simulated.setting.method
        if i < top or method not in methods:
            best.append(p)
        methods.add(method)
    return best


def _ids(model: LanguageModel, file: Path) -> list[int]:
    if file.suffix != ".npy":
        return text_of(model).encode(read_text(file))
    try:
        ids = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as e:
        raise DataError(f"{file}: not an .npy array: {e}") from e
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise DataError(f"{file}: expected token ids, whole numbers (n,)")
    return [int(t) for t in ids]


def _promise(text: str) -> tuple[float, float]:
    try:
        alpha, confidence = (float(part) for part in text.split("@"))
    except ValueError as e:
        raise DataError(f"--certify {text!r:.60}: expected ALPHA@CONFIDENCE, e.g. 0.1@0.9") from e
    return alpha, round(1 - confidence, 12)


def _certified(
    model: LanguageModel, prompts: list[list[int]], promised: tuple[float, float], max_tokens: int, repair: bool
) -> Consistency:
    return certify(
        model, prompts, Decoding("calm", repair=repair), alpha=promised[0], delta=promised[1], max_tokens=max_tokens,
        progress=lambda threshold, far: say(f"calm, threshold {threshold:g}: distance {far:.3f}"),
    )  # fmt: skip


def _document(consistency: Consistency | None) -> dict[str, Any] | None:
    if consistency is None:
        return None
    numbers = {"alpha": consistency.alpha, "delta": consistency.delta, "n": consistency.n,
               "measured": consistency.measured}  # fmt: skip
    return {"threshold": consistency.setting.sure, "repair": consistency.setting.repair, **numbers,
            "early": consistency.early, "promise": consistency.text}  # fmt: skip


@contextlib.contextmanager
def _progress() -> Any:
    """Show a progress bar per phase."""
    with contextlib.ExitStack() as stack:
        bars: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in bars:
                stack.close()
                bars[what] = stack.enter_context(steps(what))
            bars[what](done, total)

        yield tell
