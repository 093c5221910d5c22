"""Command `edgeexit bench`: latency per exit, and device profiles."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgeexit.bench.bench import bench as bench_bundle
from edgeexit.bench.profile import Profile
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.cli.common import bundle_argument, json_option, milliseconds, print_json, steps, table, threads_option
from edgeexit.common.environment import environment, environment_line
from edgeexit.engine import backends


@click.command()
@bundle_argument
@click.option("--n", type=click.IntRange(1), default=300, show_default=True, help="Rounds; each times every case once.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the stage times as a profile.json, for deadlines.")
@threads_option
@json_option
def bench(bundle: Path, n: int, save: Path | None, threads: int, as_json: bool) -> None:
    """Measure latency of every layout and exit beside the single-exit network.

    All cases are interleaved in one run. The ratio is to the single-exit network (the prefix of the last exit, of the
    same format and precision), round by round: its median and, in brackets, the 10th and 90th percentile; "-" where
    the bundle has no such prefix. Compare ratios, not milliseconds of other runs.

    --save keeps the times: `edgeexit run --profile FILE --deadline-ms 5` and `edgeexit.use_profile` use them. They hold
    for this device, engine version, number of threads and content of the model files; with others they are refused.
    """
    opened = Bundle.open(bundle)
    with steps("timing") as tell:
        timings = bench_bundle(opened, n=n, threads=threads, progress=tell)
    if save is not None:
        Profile.of(timings, opened, threads).write(save)
    where = environment(backends.get(opened.manifest.artifact(timings[0].artifact).format).version(), threads)
    if as_json:
        print_json({"environment": where, "timings": [asdict(t) for t in timings]})
        return
    rows = [["artifact", "exit", "p50", "p90", "of the single-exit network"]]
    last = len(opened.manifest.exits) - 1
    for t in timings:
        ratio = "-" if t.ratio is None else f"{t.ratio:.3f} ({t.ratio_low:.3f}..{t.ratio_high:.3f})"
        single = " (single-exit network)" if LAYOUTS[t.layout].self_contained and t.exit == last else ""
        rows.append([t.artifact + single, str(t.exit), milliseconds(t.p50), milliseconds(t.p90), ratio])
    click.echo(table(rows, right=(1, 2, 3)))
    timed = {t.artifact for t in timings}
    if left := [a.name for a in opened.manifest.artifacts if LAYOUTS[a.layout].answers and a.name not in timed]:
        click.echo(f"not timed, as their engine is not installed here: {', '.join(left)}")
    click.echo(f"n = {n} interleaved rounds, {environment_line(where)}")
