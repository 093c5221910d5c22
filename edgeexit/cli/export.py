"""`edgeexit export`"""

from __future__ import annotations

from pathlib import Path

import click

import edgeexit
from edgeexit.cli.common import json_option, names, print_json, say
from edgeexit.cli.inspect import describe, exits_table
from edgeexit.errors import EdgeExitError
from edgeexit.files import read_npz
from edgeexit.manifest import LAYOUTS
from edgeexit.scores import NAMES


@click.command()
@click.argument("source")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, help="The bundle's folder, e.g. kws.edgeexit."
)
@click.option(
    "--exits",
    metavar="A,B+C",
    help="Exits' tensor names, shallow to deep; heads that answer together with +. [default: the outputs, in order]",
)
@click.option("--scores", metavar="S,T", help="Tensors of learned scores in [0, 1], one per exit (.onnx only).")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict (.safetensors, or .pt read with weights_only)."
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SPEC",
    help="NAME:DTYPE[AXES]; names are free axes, time=100 gives one an example size. Repeat for several inputs.",
)
@click.option("--layouts", default="fused,chain,prefix,all", show_default=True, help="Which forms to write.")
@click.option(
    "--score", type=click.Choice(list(NAMES)), default="maxprob", show_default=True, help="Inside the fused graph."
)
@click.option(
    "--outputs",
    type=click.Choice(["auto", "logits", "probs"]),
    default="auto",
    show_default=True,
    help="What exits give; auto = probs where one ends in a Softmax.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="An .npz whose first rows are checked besides random inputs."
)
@click.option(
    "--tolerance", type=float, help="Allowed error, of an exit's largest output. [default: 1e-4, half precision 1e-2]"
)
@click.option("--labels", metavar="A,B,C", help="Class names, or a text file with one per line.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@json_option
def export(
    source: str,
    out: Path,
    exits: str | None,
    scores: str | None,
    weights: Path | None,
    inputs: tuple[str, ...],
    layouts: str,
    score: str,
    outputs: str,
    data: Path | None,
    tolerance: float | None,
    labels: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a bundle from a multi-exit network.

    SOURCE is a multi-output .onnx file (needs no torch), or package.module:function returning a torch module
    that gives its exits in order: tensors, tuples of tensors (heads that answer together: their mean answers, their
    spread is the uncertainty), or dicts of output and score (a learned score in [0, 1]). Every layout is compared
    with the source model at every exit; a difference above the tolerance refuses the bundle.

    \b
    Examples:
      edgeexit export model.onnx --exits y0,y1,y2 --out my.edgeexit
      edgeexit export model.onnx --exits y0,y1+y2+y3 --scores s0,s1 --score learned --out my.edgeexit
      edgeexit export edgeexit_models:resnet8 --weights w.safetensors --out resnet8.edgeexit
      edgeexit export net:make --input "audio:float32[batch,1,time=16000]" --out my.edgeexit
    """
    wanted = names(layouts) or []
    if not wanted or any(w not in LAYOUTS for w in wanted):
        raise EdgeExitError(f"--layouts {layouts}: choose from {', '.join(LAYOUTS)}")
    bundle = edgeexit.export(
        source,
        out,
        exits=names(exits),
        scores=names(scores),
        weights=weights,
        inputs=inputs,
        layouts=wanted,
        score=score,
        outputs=outputs,
        tolerance=tolerance,
        data=None if data is None else read_npz(data),
        labels=class_names(labels),
        overwrite=overwrite,
        progress=say,
    )
    if as_json:
        print_json(describe(bundle))
    else:
        click.echo(exits_table(bundle))
        if note := bundle.manifest.provenance.get("batch_note"):
            click.echo(f"note: takes one input per call: {note}")
        click.echo(f"wrote {out}")


def class_names(text: str | None) -> list[str] | None:
    """Names separated by commas, or the lines of a text file."""
    if text is not None and Path(text).is_file():
        return [line.strip() for line in Path(text).read_text(encoding="utf-8").splitlines() if line.strip()]
    return names(text)
