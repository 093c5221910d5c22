"""Shared by commands on speech: reading sound and recording the transcripts of the exits."""

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
    help="Error rate of speech: of words, or of characters.",
)


def is_speech(engine: Engine, data: Path) -> bool:
    """Test whether the data are utterances for a speech model, and not arrays."""
    return engine.bundle.manifest.speech is not None and is_speech_data(data)


def record_sound(engine: Engine, data: Path, error: str) -> Recording:
    """Record every exit's transcript of every utterance, with a progress bar; conversions go to standard error."""
    with about(data), steps(f"recording {data.name}") as tell:
        return record_speech(
            engine, read_speech(data, convert=True, notice=say), error=error, progress=tell, convert=True, notice=say
        )
