"""`edgeexit transcribe`"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from edgeexit.cli.common import (
    artifact_option,
    bundle_argument,
    json_option,
    milliseconds,
    print_json,
    printable,
    say,
    steps,
    threads_option,
)
from edgeexit.cli.run import open_engine
from edgeexit.errors import DataError
from edgeexit.profile import use_profile
from edgeexit.speech.live import Heard, listen, microphone
from edgeexit.speech.transcribe import LONGEST_S, Part, Transcriber, Transcript


@click.command()
@bundle_argument
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, metavar="FILE.wav...")
@click.option("--mic", is_flag=True, help="Listen to the microphone instead, until Ctrl-C. Needs edgeexit[mic].")
@click.option("--beam", type=click.IntRange(1, 4096), help="Prefix beam search of this width. [default: greedy]")
@click.option("--all-exits", is_flag=True, help="Also print what every exit would have written.")
@click.option("--policy", metavar="NAME", help="Operating point. [default: the only one stored for the artifact]")
@click.option("--exit", "exit_index", type=click.IntRange(0), help="Answer at this exit, whatever the score.")
@click.option("--budget", help="Thresholds solved now for this mean cost: 0.3 of the last exit's, 4MMACs, 2.5ms.")
@click.option("--profile", type=click.Path(path_type=Path), help="Stage times from `edgeexit bench --save`.")
@click.option("--deadline-ms", type=float, help="Milliseconds the network may take for one window.")
@click.option(
    "--window-s", type=float, default=LONGEST_S, show_default=True,
    help="Seconds heard at once; longer audio is cut where it is quiet.",
)  # fmt: skip
@artifact_option
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
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Write down speech, and say which exit did and why.

    Text goes to standard output, one line per file; long files in parts, as they are heard. Under it stands the deepest
    exit that was taken, its score, and the real-time factor: time spent by time heard. Other sample rates are resampled
    and channels mixed down, with a notice on standard error.

    \b
    Examples:
      edgeexit transcribe digits.edgeexit jackson.wav
      edgeexit transcribe digits.edgeexit *.wav --policy balanced --json
      edgeexit transcribe digits.edgeexit jackson.wav --exit 0 --all-exits
      edgeexit transcribe digits.edgeexit --mic
    """
    if mic == bool(files):
        raise DataError("transcribe takes FILE.wav..., or --mic without files")
    engine, used = open_engine(bundle, artifact, policy, exit_index, budget, threads)
    if profile is not None:
        use_profile(engine, profile)
    deadline = None if deadline_ms is None else deadline_ms / 1000
    transcriber = Transcriber(engine, beam=beam, longest_s=window_s, all_exits=all_exits, deadline_s=deadline)
    if mic:
        _listen(transcriber, as_json)
        return
    found = []
    for path in files:
        with steps(f"hearing {path.name}") as progress:
            heard = transcriber.file(path, notice=lambda text: say(printable(text)), progress=progress)
        found.append(heard)
        if not as_json:
            _print(heard, path if len(files) > 1 else None, engine.exits)
    if as_json:
        rows = [{"file": str(p), **t.to_dict()} for p, t in zip(files, found, strict=True)]
        print_json({"artifact": engine.artifact.name, "policy": used, "files": rows})
        return
    click.echo(f"{engine.artifact.name}, {used}")


def _print(heard: Transcript, path: Path | None, exits: int) -> None:
    click.echo((f"{printable(str(path))}: " if path else "") + printable(heard.text))
    if len(heard.parts) > 1:
        for p in heard.parts:
            where = "silence" if p.decision is None else f"exit {p.decision.exit}"
            click.echo(f"  {p.start:8.2f} s  {where}  {printable(p.text)}")
    for k, text in enumerate(heard.at_exits or ()):
        click.echo(f"  exit {k}: {printable(text)}")
    click.echo(f"  {_summary(heard, exits)}")


def _summary(heard: Transcript, exits: int) -> str:
    deepest, factor = heard.deepest, heard.real_time_factor
    took = f"{heard.audio_seconds:.2f} s in {milliseconds(heard.seconds)}"
    took += "" if factor is None else f", real-time factor {factor:.4f}"
    if deepest is None:
        return f"silence, the network was not asked; {took}"
    late = ", LATE" if any(p.decision is not None and p.decision.late for p in heard.parts) else ""
    return f"exit {deepest.exit} of 0..{exits - 1} ({deepest.reason}), score {deepest.score:.4f}; {took}{late}"


def _listen(transcriber: Transcriber, as_json: bool) -> None:
    say("listening; Ctrl-C ends")
    with contextlib.suppress(KeyboardInterrupt):
        for heard in listen(transcriber, microphone(transcriber.rate)):
            _print_heard(heard, as_json)


def _print_heard(heard: Heard, as_json: bool) -> None:
    part: Part = heard.part
    if sys.stderr.isatty():  # what is not final yet is written over by what follows
        click.echo("\r\x1b[K" + (printable(part.text) if heard.end is None else ""), nl=False, err=True)
    if heard.end is None:
        return
    if as_json:
        print_json({"end": heard.end, **Transcript((part,)).to_dict()})
        return
    where = "" if part.decision is None else f"  (exit {part.decision.exit}, {part.decision.reason})"
    click.echo(f"{part.start:8.2f} s  {printable(part.text)}{where}")
