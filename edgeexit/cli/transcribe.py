"""Command `edgeexit transcribe`: texts of recordings or of the microphone, and the exits used."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from edgeexit.bench.profile import use_profile
from edgeexit.cli.common import (
    bundle_argument,
    decided_by,
    json_option,
    milliseconds,
    print_json,
    printable,
    run_artifact_option,
    say,
    steps,
    threads_option,
)
from edgeexit.cli.run import open_engine
from edgeexit.cli.transcribe_stream import transcribe_stream
from edgeexit.errors import DataError
from edgeexit.speech.live import LiveText, listen, microphone
from edgeexit.speech.offline import LONGEST_S, Transcriber
from edgeexit.speech.online import ExitPer, streams
from edgeexit.speech.transcript import Part, Transcript
from edgeexit.speech.wav import WavFile


@click.command()
@bundle_argument
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, metavar="FILE.wav...")
@click.option(
    "--mic", is_flag=True, help="Transcribe the microphone until Ctrl-C, in place of files. Needs edgeexit[mic]."
)
@click.option("--all-exits", is_flag=True, help="Also print the text of every exit.")
@click.option("--policy", metavar="NAME", help="Operating point. [default: the bundle's default, else the first]")
@click.option("--exit", "exit_index", type=click.IntRange(0), help="Answer at this exit, whatever the score.")
@click.option("--budget", help="Thresholds solved now for this mean cost: 0.3 of the last exit's, 4MMACs, 2.5ms.")
@click.option("--profile", type=click.Path(path_type=Path), help="Stage times from `edgeexit bench --save`.")
@click.option("--deadline-ms", type=float, help="Milliseconds the network may take for one window.")
@click.option(
    "--window-s", type=float, default=LONGEST_S, show_default=True,
    help="Seconds per window; longer audio is cut where it is quiet.",
)  # fmt: skip
@click.option(
    "--exit-per", type=click.Choice(["utterance", "chunk"]), default="utterance", show_default=True,
    help="Unit of a decision, for networks that take chunks.",
)  # fmt: skip
@run_artifact_option
@threads_option
@json_option
def transcribe(
    bundle: Path,
    files: tuple[Path, ...],
    mic: bool,
    all_exits: bool,
    policy: str | None,
    exit_index: int | None,
    budget: str | None,
    profile: Path | None,
    deadline_ms: float | None,
    window_s: float,
    exit_per: ExitPer,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Transcribe speech; report the exit used and why.

    Files longer than a window are printed in parts, as soon as each is transcribed. The line under the text shows the
    deepest exit that was taken, its score, and the real-time factor: processing time / audio time. Other sample rates
    are resampled and channels mixed down, with a notice on standard error.

    A network with states takes chunk by chunk, and its utterances are printed as they end. Exit 0 gives the text during
    speech; at the pause the policy decides on the whole utterance, and deeper stages run only if it continues. With
    --exit-per chunk it decides on every chunk, and stages that were skipped catch up before they are next used.

    \b
    Examples:
      edgeexit transcribe digits.edgeexit jackson.wav
      edgeexit transcribe digits.edgeexit *.wav --policy balanced --json
      edgeexit transcribe digits.edgeexit jackson.wav --exit 0 --all-exits
      edgeexit transcribe digits-stream.edgeexit --mic
    """
    if mic == bool(files):
        raise DataError("transcribe takes FILE.wav..., or --mic without files")
    engine, used = open_engine(bundle, artifact, policy, exit_index, budget, threads)
    if profile is not None:
        use_profile(engine, profile)
    if streams(engine.bundle.manifest):
        if all_exits or deadline_ms or window_s != LONGEST_S:
            raise DataError(
                f"{bundle} takes chunk by chunk; --all-exits, --deadline-ms and --window-s are for networks that take "
                "whole recordings"
            )
        transcribe_stream(engine, files, exit_per, used, as_json, mic)
        return
    deadline = None if deadline_ms is None else deadline_ms / 1000
    transcriber = Transcriber(engine, longest_s=window_s, all_exits=all_exits, deadline_s=deadline)
    if mic:
        _listen(transcriber, as_json)
        return
    transcripts = [_file(transcriber, path, len(files) > 1, as_json) for path in files]
    if as_json:
        rows = [{"file": str(p), **t.to_dict()} for p, t in zip(files, transcripts, strict=True)]
        print_json({**decided_by(engine, used), "files": rows})
        return
    click.echo(f"{engine.artifact.name}, {used}")


def _file(transcriber: Transcriber, path: Path, named: bool, as_json: bool) -> Transcript:
    """Transcribe one file and print its text as it comes."""
    name = f"{printable(str(path))}: " if named else ""
    with WavFile(path, convert=True, notice=_notice) as file:
        if as_json:
            with steps(f"transcribing {path.name}") as tell:
                return transcriber.file(
                    file, progress=lambda p: tell(int(p.start + p.audio_seconds), int(file.seconds))
                )
        long = file.seconds > transcriber.longest_s
        if long and named:
            click.echo(name)
        transcript = transcriber.file(file, progress=lambda p: _print_part(p) if long else None)
    if not long:
        click.echo(name + printable(transcript.text))
    for k, text in enumerate(transcript.at_exits or ()):
        click.echo(f"  exit {k}: {printable(text)}")
    click.echo(f"  {_summary(transcript, transcriber.engine.exits)}")
    return transcript


def _notice(text: str) -> None:
    say(printable(text))


def _print_part(part: Part) -> None:
    how = "silence" if part.decision is None else f"exit {part.decision.exit}, {part.decision.reason}"
    click.echo(f"{part.start:9.2f} s  {printable(part.text)}  ({how})")


def _summary(transcript: Transcript, exits: int) -> str:
    deepest, factor = transcript.deepest, transcript.real_time_factor
    took = f"{transcript.audio_seconds:.2f} s in {milliseconds(transcript.seconds)}"
    took += "" if factor is None else f", real-time factor {factor:.4f}"
    if deepest is None:
        return f"silence, the network was not run; {took}"
    late = ", LATE" if any(p.decision is not None and p.decision.late for p in transcript.parts) else ""
    return f"exit {deepest.exit} of 0..{exits - 1} ({deepest.reason}), score {deepest.score:.4f}; {took}{late}"


def _listen(transcriber: Transcriber, as_json: bool) -> None:
    sound = microphone(transcriber.rate)
    say("listening; Ctrl-C ends")
    with contextlib.suppress(KeyboardInterrupt):
        for live in listen(transcriber, sound):
            _print_live(live, as_json)


def _print_live(live: LiveText, as_json: bool) -> None:
    if sys.stderr.isatty():  # unfinished text is overwritten by what follows
        unfinished = printable(live.part.text) if live.end is None else ""
        click.echo(f"\r\x1b[K{unfinished}", nl=False, err=True)
    if live.end is not None and as_json:
        print_json({"end": live.end, **Transcript((live.part,)).to_dict()})
    elif live.end is not None:
        _print_part(live.part)
