"""Command `edgeexit generate`: continues a prompt with a language model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeexit.bundle.lm_spec import unproved
from edgeexit.cli.common import bundle_argument, json_option, percent, print_json, read_text, say, shown, threads_option
from edgeexit.cli.generate_batch import answer_all, prompts_of
from edgeexit.cli.probing import ids_of, probe_of, probe_options, probe_text, unescaped
from edgeexit.common.environment import environment
from edgeexit.common.files import read_json
from edgeexit.errors import DataError
from edgeexit.lm.batch import AnswerBatch
from edgeexit.lm.costs import Costs
from edgeexit.lm.decoding import AnswerProbe
from edgeexit.lm.generate import Answer, Generation
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import chooser
from edgeexit.lm.settings import CONFIDENCES, METHODS, Decoding
from edgeexit.lm.text.tokenizer import Text, encoded, text_of
from edgeexit.lm.tuning.measure_costs import measure

decoder_option = click.option(
    "--artifact", metavar="NAME", help="Decoder artifact or precision. [default: the first that can run here]"
)
costs_option = click.option(
    "--costs", type=click.Path(path_type=Path), help="This device's costs from `edgeexit simulate --save-costs`."
)


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of decoding."""
    for option in (
        click.option("--repair", is_flag=True, help="calm: deeper stages compute skipped tokens later."),
        click.option(
            "--confidence",
            type=click.Choice(CONFIDENCES),
            default="maxprob",
            show_default=True,
            help="calm: kind of confidence.",
        ),
        click.option(
            "--ngram", type=int, default=3, show_default=True, help="lookup: longest n-gram that must repeat."
        ),
        click.option(
            "--threshold",
            type=float,
            help="Confidence: speculative and del stop drafting below it, calm exits at it.",
        ),
        click.option("--draft", type=int, default=4, show_default=True, help="Tokens drafted per round; del: at most."),
        click.option(
            "--exit", "exit_index", type=int, help="speculative: drafts. calm: first to answer. skip: stages left."
        ),
        click.option(
            "--method", type=click.Choice(METHODS), default="greedy", show_default=True, help="Way of decoding."
        ),
    ):
        command = option(command)
    return command


def setting_arguments(setting: Decoding) -> list[str]:
    """A setting as `setting_options` take it, without what is their default."""
    plain = Decoding()
    values = {
        "--exit": setting.exit,
        "--draft": setting.draft if setting.draft != plain.draft and setting.block > 1 else None,
        "--threshold": setting.threshold or None if setting.method != "calm" else setting.threshold,
        "--ngram": setting.ngram if setting.ngram != plain.ngram else None,
        "--confidence": setting.confidence if setting.confidence != plain.confidence else None,
    }
    arguments = [] if setting.method == plain.method else ["--method", setting.method]
    arguments += [part for name, value in values.items() if value is not None for part in (name, str(value))]
    return [*arguments, *(["--repair"] if setting.repair else [])]


@click.command()
@bundle_argument
@click.option("--prompt", help="Text to continue.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="File with the text to continue.")
@click.option(
    "--prompt-ids", metavar="ID,ID", help="Token ids to continue; the answer is ids too if there is no tokenizer."
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Several prompts: a JSON list of texts or of lists of token ids; greedy or skip.",
)
@setting_options
@click.option("--max-tokens", type=int, default=128, show_default=True, help="Most new tokens.")
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="Sampling temperature; 0 = the most probable token.",
)
@click.option(
    "--top-k", type=int, default=0, show_default=True, help="Sample from the k most probable tokens; 0 = all."
)
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Sample from this share of the probability.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Sampling seed.")
@click.option("--stop", "stops", multiple=True, help="End before this string; may be given several times.")
@probe_options
@costs_option
@decoder_option
@threads_option
@json_option
def generate(
    bundle: Path,
    prompt: str | None,
    prompt_file: Path | None,
    prompt_ids: str | None,
    prompts: Path | None,
    method: Any,
    exit_index: int | None,
    draft: int,
    threshold: float | None,
    ngram: int,
    confidence: Any,
    repair: bool,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stops: tuple[str, ...],
    costs: Path | None,
    artifact: str | None,
    threads: int,
    as_json: bool,
    **probing: Any,
) -> None:
    """Continue a prompt; print the text as it is decoded.

    \b
    Examples:
      edgeexit generate code.edgeexit --prompt "def main("
      edgeexit generate code.edgeexit --prompt "def main(" --method speculative --exit 2 --draft 4
      edgeexit generate code.edgeexit --prompt-file notes.txt --method lookup --stop "\\n\\n"
      edgeexit generate code.edgeexit --prompt "import " --temperature 0.8 --top-p 0.95 --seed 7
      edgeexit generate code.edgeexit --prompts many.json --method skip --exit 1
      edgeexit generate thinker.edgeexit --prompt "12 * 12?" --trigger Wait --probe "\\nAnswer:"

    speculative, del and lookup verify their drafts with the whole network. Whether the text is then that of plain
    decoding was measured for every artifact on export; the last line says so. calm and skip give another text, by
    design. `edgeexit simulate` finds the fastest setting on this device.

    With --trigger and --probe a text may end early (DEER): where the word would come, the model is prompted for its
    answer at once. If its confidence in the answer's tokens is high enough, that ends the text; otherwise the text
    continues with the word.
    """
    setting = Decoding(method, exit_index, draft, threshold, ngram, confidence, repair=repair)
    model = load_lm(bundle, artifact=artifact, threads=threads)
    ids_will_do = prompt_ids is not None or prompts is not None
    text = None if model.tokenizer is None and ids_will_do else text_of(model)
    check = probe_of(model, text, **probing)
    if prompts is not None:
        if any(x is not None for x in (prompt, prompt_file, prompt_ids, check, costs)):
            raise DataError("--prompts brings all prompts, and takes no stop check and no costs: leave the others out")
        all_ids = prompts_of(model, text, prompts)
        each = [chooser(temperature, top_k, top_p, seed + i) for i in range(len(all_ids))]
        batch = AnswerBatch(
            model,
            all_ids,
            setting,
            max_tokens=max_tokens,
            choosers=each,
            text=text,
            stops=[unescaped(s) for s in stops],
        )
        answer_all(batch, as_json)
        return
    ids = prompt_of(model, text, prompt, prompt_file, prompt_ids)
    picks = chooser(temperature, top_k, top_p, seed)
    answer = Answer(
        model, ids, setting, max_tokens=max_tokens, chooser=picks,
        costs=costs_of(model, setting, costs), text=text,
        stops=[unescaped(s) for s in stops], check=check,
    )  # fmt: skip
    stopped = False
    try:
        for piece in answer:
            if not as_json:
                click.echo(shown(piece.text) if text is not None else " ".join(map(str, piece.ids)) + " ", nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        stopped = True
    result = answer.result
    if as_json:
        where = environment(model.engine, threads)
        print_json({**asdict(result), "tokens_per_second": result.tokens_per_second, "acceptance": result.acceptance,
                    "probe": _document(check), "artifact": model.artifact, "environment": where})  # fmt: skip
    else:
        click.echo()
        say(summary(result, model, drawn=not picks.greedy, check=check))
    if stopped:
        raise click.Abort


def prompt_of(
    model: LanguageModel, text: Text | None, prompt: str | None, file: Path | None, ids: str | None
) -> list[int]:
    """Tokens of the prompt, from one of three options.

    Raises:
        DataError: none or several of them, a file that is not text, ids that are not numbers.
    """
    if sum(x is not None for x in (prompt, file, ids)) != 1:
        raise DataError("give one of --prompt, --prompt-file, --prompt-ids and --prompts")
    if ids is not None:
        return ids_of(ids, "--prompt-ids")
    if file is not None:
        prompt = read_text(file)
    assert prompt is not None and text is not None
    return encoded(model, text, prompt)


def costs_of(model: LanguageModel, setting: Decoding, file: Path | None) -> Costs | None:
    """Costs for `del`: from a file, or measured now; None = not needed."""
    if setting.method != "del":
        return None
    if file is not None:
        return Costs.from_dict(read_json(file, DataError))
    say("measuring this device's costs for del (keep them: `edgeexit simulate --save-costs`)")
    return measure(model, setting.draft + 1, n=5)


def _document(check: AnswerProbe | None) -> dict[str, Any] | None:
    return None if check is None else {**asdict(check), "triggers": sorted(check.triggers)}


def summary(result: Generation, model: LanguageModel, *, drawn: bool = False, check: AnswerProbe | None = None) -> str:
    """Statistics of an answer, in one line."""
    speed = result.tokens_per_second
    parts = [f"{len(result.ids)} tokens" + ("" if speed is None else f", {speed:.1f} tokens/s"), str(result.setting)]
    if result.drafted:
        per_round = len(result.ids) / result.rounds
        parts.append(f"{percent(result.acceptance)} of drafts accepted, {per_round:.2f} tokens per round")
    if result.setting.method == "calm":
        parts.append("tokens by exit " + " ".join(map(str, result.exits)))
    parts.append(f"ended by {result.reason}")
    if check is not None:
        parts.append(probe_text(check))
    if result.setting.method != "greedy":
        parts.append(_claim(result, model, drawn))
    return "; ".join(parts)


def _claim(result: Generation, model: LanguageModel, drawn: bool) -> str:
    if result.setting.lossy:
        return "lossy: another text than plain decoding's"
    shown = model.proved(result.setting.block)
    if shown:
        assert model.proof is not None
        # a stop check ends the text elsewhere, so there is no claim on the whole
        what = "drawn from plain decoding's distribution" if drawn else "lossless" if result.same else "drafts"
        return f"{what}: verified on export ({model.proof.tokens} tokens, up to {model.proof.block} together)"
    if shown is False:
        return "approximate: the text may differ from plain decoding's on this artifact"
    return f"the text may differ from plain decoding's: {unproved(model.proof, result.setting.block)}"
