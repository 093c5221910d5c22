"""What commands share that hear sound: reading it and recording what the exits write."""

from __future__ import annotations

from pathlib import Path

import click

from edgeexit.cli.common import about, say, steps
from edgeexit.common.measures import ERROR_RATES
from edgeexit.engine.engine import Engine
from edgeexit.speech.data import is_speech_data, read_speech
from edgeexit.speech.record import Recording, record_speech

error_option = click.option(
    "--error",
    type=click.Choice(list(ERROR_RATES), case_sensitive=False),
    default="WER",
    show_default=True,
    help="Of speech: count words, or characters.",
)


def hears(engine: Engine, data: Path) -> bool:
    """Whether the data are utterances for a model of speech, and not arrays."""
    return engine.bundle.manifest.speech is not None and is_speech_data(data)


def record_sound(engine: Engine, data: Path, error: str) -> Recording:
    """What every exit writes for every utterance, with a progress bar; says what was done to the sound."""
    with about(data), steps(f"recording {data.name}") as tell:
        return record_speech(engine, read_speech(data, say), error=error, progress=tell, notice=say)
