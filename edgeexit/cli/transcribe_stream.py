"""`edgeexit transcribe` for networks that take audio chunk by chunk."""

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
from edgeexit.speech.wav import WavFile

if TYPE_CHECKING:
    from edgeexit.engine.engine import Engine
    from edgeexit.speech.features import Samples


def transcribe_stream(
    engine: Engine, files: Sequence[Path], exit_per: ExitPer, used: str, as_json: bool, mic: bool
) -> None:
    """Print every utterance as soon as it is over, and its text so far on a terminal's standard error.

    Raises:
        BundleError, DataError: see `StreamTranscriber` and `WavFile`.
    """
    transcriber = StreamTranscriber(engine, exit_per=exit_per)
    rate = transcriber.spec.features.sample_rate
    if mic:
        sound = microphone(rate)
        say("listening; Ctrl-C ends")
        with contextlib.suppress(KeyboardInterrupt):
            _transcribe(transcriber, sound, "", as_json)
        return
    rows = []
    for path in files:
        name = f"{printable(str(path))}: " if len(files) > 1 else ""
        with WavFile(path, convert=True, notice=lambda text: say(printable(text))) as file:
            final = _transcribe(transcriber, file.blocks(rate), name, False, quiet=as_json)
        seconds, audio = sum(t.seconds for t in final), final[-1].end if final else 0.0
        rows.append(
            {
                "file": str(path),
                "text": " ".join(t.text for t in final if t.text),
                "audio_seconds": audio,
                "seconds": seconds,
                "real_time_factor": seconds / audio if audio else None,
                "utterances": [asdict(t) for t in final],
            }
        )
        if not as_json:
            factor = f", real-time factor {seconds / audio:.4f}" if audio else ""
            click.echo(f"  {audio:.2f} s in {milliseconds(seconds)}{factor}")
    if as_json:
        print_json({**decided_by(engine, used), "files": rows})
    else:
        click.echo(f"{engine.artifact.name}, {used}, chunks of {transcriber.chunk_seconds:g} s, an exit per {exit_per}")


def _transcribe(
    transcriber: StreamTranscriber, blocks: Iterable[Samples], name: str, as_json: bool, quiet: bool = False
) -> list[PartialTranscript]:
    """Print the utterances of a recording; returns them."""
    final: list[PartialTranscript] = []

    def show(transcripts: Iterable[PartialTranscript]) -> None:
        for transcript in transcripts:
            if transcript.final:
                final.append(transcript)
            if not quiet:
                _print(transcript, name, as_json)

    for block in blocks:
        show(transcriber.accept_waveform(block))
    show(transcriber.finish())
    return final


def _print(t: PartialTranscript, name: str, as_json: bool) -> None:
    if sys.stderr.isatty():  # unfinished text is overwritten by what follows
        click.echo(f"\r\x1b[K{'' if t.final else printable(t.text)}", nl=False, err=True)
    if not t.final or not t.text:
        return
    if as_json:
        print_json(asdict(t))
        return
    counts = " ".join(map(str, t.exits))
    how = f"chunks per exit {counts}" if t.score is None else f"exit {t.exit}, {t.reason}, score {t.score:.4f}"
    wait = f"{milliseconds(t.last_seconds)} after its end"
    click.echo(f"{name}{t.start:7.2f} s  {printable(t.text)}  ({how}; {wait})")
