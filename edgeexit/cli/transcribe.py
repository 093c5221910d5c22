"""`edgeexit transcribe`"""

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
from edgeexit.speech.offline import LONGEST_S, Part, Transcriber, Transcript
from edgeexit.speech.online import ExitPer, streams
from edgeexit.speech.wav import WavFile


@click.command()
@bundle_argument
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, metavar="FILE.wav...")
@click.option("--mic", is_flag=True, help="Listen to the microphone instead, until Ctrl-C. Needs edgeexit[mic].")
@click.option("--beam", type=click.IntRange(1, 4096), help="Prefix beam search of this width. [default: greedy]")
@click.option("--all-exits", is_flag=True, help="Also print what every exit would have written.")
@click.option("--policy", metavar="NAME", help="Operating point. [default: the bundle's default, else the first]")
@click.option("--exit", "exit_index", type=click.IntRange(0), help="Answer at this exit, whatever the score.")
@click.option("--budget", help="Thresholds solved now for this mean cost: 0.3 of the last exit's, 4MMACs, 2.5ms.")
@click.option("--profile", type=click.Path(path_type=Path), help="Stage times from `edgeexit bench --save`.")
@click.option("--deadline-ms", type=float, help="Milliseconds the network may take for one window.")
@click.option(
    "--window-s", type=float, default=LONGEST_S, show_default=True,
    help="Seconds heard at once; longer audio is cut where it is quiet.",
)  # fmt: skip
@click.option(
    "--exit-per", type=click.Choice(["utterance", "chunk"]), default="utterance", show_default=True,
    help="What a decision is about, where the network hears chunk by chunk.",
)  # fmt: skip
@run_artifact_option
@threads_option
@json_option
def transcribe(
    bundle: Path,
    files: tuple[Path, ...],
    mic: bool,
    beam: int | None,
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
    """Write down speech, and say which exit did and why.

    Files longer than a window are printed in parts, as they are heard. Under the text stand the deepest exit that was
    taken, its score, and the real-time factor: time spent by time heard. Other sample rates are resampled and channels
    mixed down, with a notice on standard error.

    A network with states hears chunk by chunk and prints utterances as they end. Exit 0 writes while somebody speaks;
    at the pause the policy looks at the whole utterance, and deeper stages hear it only where it is not satisfied. With
    --exit-per chunk every chunk is decided on, and stages that were skipped catch up before they are next used.

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
        if beam or all_exits or deadline_ms or window_s != LONGEST_S:
            raise DataError(
                f"{bundle} hears chunk by chunk; --beam, --all-exits, --deadline-ms and --window-s are for networks "
                "that hear whole recordings"
            )
        transcribe_stream(engine, files, exit_per, used, as_json, mic)
        return
    deadline = None if deadline_ms is None else deadline_ms / 1000
    transcriber = Transcriber(engine, beam=beam, longest_s=window_s, all_exits=all_exits, deadline_s=deadline)
    if mic:
        _listen(transcriber, as_json)
        return
    found = []
    for path in files:
        heard = _file(transcriber, path, len(files) > 1, as_json)
        found.append(heard)
    if as_json:
        rows = [{"file": str(p), **t.to_dict()} for p, t in zip(files, found, strict=True)]
        print_json({**decided_by(engine, used), "files": rows})
        return
    click.echo(f"{engine.artifact.name}, {used}")


def _file(transcriber: Transcriber, path: Path, named: bool, as_json: bool) -> Transcript:
    """Transcribe one file; its text is printed as soon as it is there."""
    with WavFile(path, lambda _: None) as file:
        long = file.seconds > transcriber.longest_s
    name = f"{printable(str(path))}: " if named else ""
    if as_json:
        with steps(f"hearing {path.name}") as tell:
            return transcriber.file(
                path, notice=_notice, progress=lambda p, total: tell(int(p.start + p.audio_seconds), int(total))
            )
    if long and named:
        click.echo(name)
    heard = transcriber.file(path, notice=_notice, progress=lambda p, _: _print_part(p) if long else None)
    if not long:
        click.echo(name + printable(heard.text))
    for k, text in enumerate(heard.at_exits or ()):
        click.echo(f"  exit {k}: {printable(text)}")
    click.echo(f"  {_summary(heard, transcriber.engine.exits)}")
    return heard


def _notice(text: str) -> None:
    say(printable(text))


def _print_part(part: Part) -> None:
    how = "silence" if part.decision is None else f"exit {part.decision.exit}, {part.decision.reason}"
    click.echo(f"{part.start:9.2f} s  {printable(part.text)}  ({how})")


def _summary(heard: Transcript, exits: int) -> str:
    deepest, factor = heard.deepest, heard.real_time_factor
    took = f"{heard.audio_seconds:.2f} s in {milliseconds(heard.seconds)}"
    took += "" if factor is None else f", real-time factor {factor:.4f}"
    if deepest is None:
        return f"silence, the network was not asked; {took}"
    late = ", LATE" if any(p.decision is not None and p.decision.late for p in heard.parts) else ""
    return f"exit {deepest.exit} of 0..{exits - 1} ({deepest.reason}), score {deepest.score:.4f}; {took}{late}"


def _listen(transcriber: Transcriber, as_json: bool) -> None:
    sound = microphone(transcriber.rate)
    say("listening; Ctrl-C ends")
    with contextlib.suppress(KeyboardInterrupt):
        for heard in listen(transcriber, sound):
            _print_heard(heard, as_json)


def _print_heard(heard: LiveText, as_json: bool) -> None:
    if sys.stderr.isatty():  # what is not final yet is written over by what follows
        unfinished = printable(heard.part.text) if heard.end is None else ""
        click.echo(f"\r\x1b[K{unfinished}", nl=False, err=True)
    if heard.end is not None and as_json:
        print_json({"end": heard.end, **Transcript((heard.part,)).to_dict()})
    elif heard.end is not None:
        _print_part(heard.part)
