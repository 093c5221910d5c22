"""Batched prompts of `edgeexit generate --prompts`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeexit.cli.common import print_json, say, shown
from edgeexit.common.environment import environment
from edgeexit.common.files import read_json
from edgeexit.errors import DataError
from edgeexit.lm.batch import AnswerBatch
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.text.tokenizer import Text, encoded


def prompts_of(model: LanguageModel, text: Text | None, file: Path) -> list[list[int]]:
    """Read a JSON list of texts, or of lists of token ids.

    Raises:
        DataError: not such a list, or text for a model without a tokenizer.
    """
    document: Any = read_json(file, DataError)
    if not isinstance(document, list) or not document:
        raise DataError(f'{file}: expected a JSON list of prompts, ["text", ...] or [[ID, ...], ...]')
    prompts = []
    for i, prompt in enumerate(document):
        if isinstance(prompt, str) and text is not None:
            prompts.append(encoded(model, text, prompt))
        elif isinstance(prompt, list) and all(type(token) is int for token in prompt):
            prompts.append(prompt)
        else:
            what = "token ids; the model has no tokenizer" if text is None else "a text or a list of token ids"
            raise DataError(f"{file}: prompt {i} is {prompt!r:.60}; expected {what}")
    return prompts


def answer_all(batch: AnswerBatch, as_json: bool) -> None:
    """Run a batch and print each answer when it is finished, then a summary; Ctrl-C prints the answers so far."""
    stopped = False
    printed: set[int] = set()
    try:
        for i, _ in batch:
            result = batch.result(i)
            if result.reason != "interrupted" and not as_json:
                printed.add(i)
                _show(i, result.ids, result.text)
    except KeyboardInterrupt:
        stopped = True
    results, model = batch.results, batch.model
    if as_json:
        where = environment(model.engine, model.threads)
        print_json({"answers": [asdict(r) for r in results], "tokens_per_second": batch.tokens_per_second,
                    "setting": asdict(batch.setting), "artifact": model.artifact, "environment": where})  # fmt: skip
    else:
        for i, result in enumerate(results):
            if i not in printed:
                _show(i, result.ids, result.text)
        say(_summary(batch))
    if stopped:
        raise click.Abort


def _show(i: int, ids: tuple[int, ...], text: str | None) -> None:
    click.echo(f"--- prompt {i}")
    click.echo(" ".join(map(str, ids)) if text is None else shown(text))


def _summary(batch: AnswerBatch) -> str:
    results, speed = batch.results, batch.tokens_per_second
    tokens = sum(len(r.ids) for r in results)
    ends = {r.reason: sum(other.reason == r.reason for other in results) for r in results}
    parts = [
        f"{len(results)} prompts together, {tokens} tokens"
        + ("" if speed is None else f", {speed:.1f} tokens/s in all"),
        str(batch.setting),
        "ended by " + ", ".join(f"{reason} {n}" for reason, n in ends.items()),
        "lossy: another text than plain decoding's" if batch.setting.lossy
        else "each text is that of its prompt alone, but for what the engine's kernels round otherwise (not compared)",
    ]  # fmt: skip
    return "; ".join(parts)
