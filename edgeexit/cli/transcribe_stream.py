"""`edgeexit transcribe` for networks that hear chunk by chunk."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeexit.cli.common import decided_by, milliseconds, print_json, printable, say
from edgeexit.speech.live import microphone
from edgeexit.speech.online import ExitPer, PartialTranscript, StreamTranscriber
from edgeexit.speech.wav import audio_blocks

if TYPE_CHECKING:
    from edgeexit.engine.engine import Engine
    from edgeexit.speech.features import Samples


def transcribe_stream(
    engine: Engine, files: Sequence[Path], exit_per: ExitPer, used: str, as_json: bool, mic: bool
) -> None:
    """Print every utterance as soon as it is over, and what is heard of it before on a terminal's standard error.

    Raises:
        BundleError, DataError: see `StreamTranscriber` and `audio_blocks`.
    """
    ear = StreamTranscriber(engine, exit_per=exit_per)
    rate = ear.spec.features.sample_rate
    if mic:
        sound = microphone(rate)
        say("listening; Ctrl-C ends")
        with contextlib.suppress(KeyboardInterrupt):
            _hear(ear, sound, "", as_json)
        return
    found = []
    for path in files:
        name = f"{printable(str(path))}: " if len(files) > 1 else ""
        heard = _hear(ear, audio_blocks(path, rate, lambda text: say(printable(text))), name, False, quiet=as_json)
        seconds, audio = sum(h.seconds for h in heard), heard[-1].end if heard else 0.0
        found.append(
            {
                "file": str(path),
                "text": " ".join(h.text for h in heard if h.text),
                "audio_seconds": audio,
                "seconds": seconds,
                "real_time_factor": seconds / audio if audio else None,
                "utterances": [asdict(h) for h in heard],
            }
        )
        if not as_json:
            factor = f", real-time factor {seconds / audio:.4f}" if audio else ""
            click.echo(f"  {audio:.2f} s in {milliseconds(seconds)}{factor}")
    if as_json:
        print_json({**decided_by(engine, used), "files": found})
    else:
        click.echo(f"{engine.artifact.name}, {used}, chunks of {ear.chunk_seconds:g} s, an exit per {exit_per}")


def _hear(
    ear: StreamTranscriber, blocks: Iterable[Samples], name: str, as_json: bool, quiet: bool = False
) -> list[PartialTranscript]:
    found: list[PartialTranscript] = []

    def told(heard: Iterable[PartialTranscript]) -> None:
        for h in heard:
            if h.final:
                found.append(h)
            if not quiet:
                _print(h, name, as_json)

    for block in blocks:
        told(ear.accept(block))
    told(ear.finish())
    return found


def _print(h: PartialTranscript, name: str, as_json: bool) -> None:
    if sys.stderr.isatty():  # what is not final yet is written over by what follows
        click.echo(f"\r\x1b[K{'' if h.final else printable(h.text)}", nl=False, err=True)
    if not h.final or not h.text:
        return
    if as_json:
        print_json(asdict(h))
        return
    how = f"exit {h.exit}, {h.reason}, score {h.score:.4f}" if h.score is not None else f"chunks per exit {_counts(h)}"
    wait = f"{milliseconds(h.last_seconds)} after its end"
    click.echo(f"{name}{h.start:7.2f} s  {printable(h.text)}  ({how}; {wait})")


def _counts(h: PartialTranscript) -> str:
    return " ".join(map(str, h.exits))
