"""Options of a stop check: prompt for the answer at certain words, and end there if its confidence is high."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from edgeexit.errors import DataError
from edgeexit.lm.decoding import AnswerProbe
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.text.tokenizer import Text


def probe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a stop check; the defaults are those of `AnswerProbe`."""
    for option in (
        click.option("--probe-tries", type=int, help="Most checks per answer.  [default: 10]"),
        click.option("--probe-tokens", type=int, help="Most tokens of a probed answer.  [default: 20]"),
        click.option(
            "--probe-mean", type=click.Choice(["arithmetic", "geometric"]),
            help="Mean of the token probabilities.  [default: arithmetic]",
        ),
        click.option(
            "--probe-threshold", type=float,
            help="End with an answer whose tokens' mean probability is above it.  [default: 0.95]",
        ),
        click.option("--probe-ids", metavar="ID,ID", help="Token ids that prompt for the answer."),
        click.option("--probe", help="Text that prompts for the answer; it becomes part of it."),
        click.option("--trigger-ids", metavar="ID,ID", help="Token ids to check at."),
        click.option(
            "--trigger", "triggers", multiple=True, metavar="WORD",
            help="Check where this word would come; may be given several times.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def probe_of(
    model: LanguageModel, text: Text | None, *, triggers: Sequence[str], trigger_ids: str | None, probe: str | None,
    probe_ids: str | None, probe_threshold: float | None, probe_mean: Any, probe_tokens: int | None,
    probe_tries: int | None,
) -> AnswerProbe | None:  # fmt: skip
    """The stop check that the options ask for; None = none.

    Raises:
        DataError: only a part of what it takes, unknown tokens, a word that is no single token, or text without a
            tokenizer.
    """
    numbers = {"threshold": probe_threshold, "mean": probe_mean, "most": probe_tokens, "tries": probe_tries}
    settings = {name: value for name, value in numbers.items() if value is not None}
    when, what = bool(triggers) or trigger_ids is not None, [x for x in (probe, probe_ids) if x is not None]
    if not when and not what and not settings:
        return None
    if not when or len(what) != 1:
        raise DataError(
            "a stop check takes where to ask (--trigger or --trigger-ids) and what to ask with (one of --probe and "
            "--probe-ids)"
        )
    if text is None and (triggers or probe is not None):
        raise DataError(f"{model.name} has no tokenizer: give --trigger-ids and --probe-ids")
    at = [] if trigger_ids is None else ids_of(trigger_ids, "--trigger-ids")
    for word in triggers:
        assert text is not None
        at += _tokens(text, unescaped(word))
    if probe_ids is not None:
        asking = ids_of(probe_ids, "--probe-ids")
    else:
        assert probe is not None and text is not None
        asking = text.encode(unescaped(probe))
    model.check_ids([*at, *asking])
    return AnswerProbe(frozenset(at), asking, **settings)


def probe_text(check: AnswerProbe) -> str:
    """The confidences of a stop check, in words."""
    if not check.confidences:
        return "no trigger came"
    sure = " ".join(f"{c:.3g}" for c in check.confidences)
    return f"asked for the answer {len(check.confidences)} times, sure {sure} (above {check.threshold:g} ends it)"


def ids_of(text: str, option: str) -> list[int]:
    """Parse token ids.

    Raises:
        DataError: not whole numbers.
    """
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError as e:
        raise DataError(f"{option} {text!r:.60}: expected whole numbers separated by commas") from e


def unescaped(text: str) -> str:
    r"""Resolve backslash escapes as Python does: \n is a line end.

    Raises:
        DataError: an invalid escape.
    """
    try:
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError as e:
        raise DataError(f"{text!r:.60}: not an escaped string ({e.reason}); a backslash itself is \\\\") from e


def _tokens(text: Text, word: str) -> list[int]:
    if tokens := text.tokens_of(word):
        return tokens
    raise DataError(
        f"--trigger {word!r:.60}: no token of this tokenizer is that word, it takes {len(text.encode(word))}; name a "
        "word that is one token, or a token by --trigger-ids"
    )
