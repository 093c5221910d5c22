"""`edgeexit export`: make a bundle from a multi-exit network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edgeexit
from edgeexit.bundle.layouts import DEFAULT_LAYOUTS, LAYOUTS, NETWORK_LAYOUTS
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.cli.common import as_class_names, as_names, json_option, labels_of, names, print_json, say
from edgeexit.cli.inspect import describe, exits_table
from edgeexit.cli.pictures import asked_preprocess, preprocess_option
from edgeexit.cli.refit_shown import refit_text
from edgeexit.common.files import read_json, read_npz, write_atomic
from edgeexit.errors import BackendMissing, EdgeExitError
from edgeexit.policy.scores import GRAPH_SCORES

if TYPE_CHECKING:
    from edgeexit.bundle.bundle import Bundle
    from edgeexit_exporters.refit import Refit
    from edgeexit_exporters.spec import ExportSpec


def _states(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str] | None:
    states = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(states) < len(pairs):
        raise EdgeExitError(f"--state {', '.join(pairs)}: expected INPUT=OUTPUT, one --state per input, e.g. h=h_next")
    return states or None


def _sizes(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in names(text) or ())
    except ValueError as e:
        raise EdgeExitError(f"--buckets {text}: expected rising whole numbers, e.g. 100,200,400") from e


def _layouts(context: click.Context, option: click.Parameter, text: str | None) -> list[str] | None:
    layouts = names(text)
    if layouts is not None and (not layouts or any(w not in LAYOUTS or LAYOUTS[w].language_model for w in layouts)):
        raise EdgeExitError(f"--layouts {text}: choose from {', '.join(NETWORK_LAYOUTS)}")
    return layouts


def _speech(context: click.Context, option: click.Parameter, path: Path | None) -> SpeechSpec | None:
    return None if path is None else SpeechSpec.from_dict(read_json(path), str(path))


@click.command()
@click.argument("source")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, help="Folder of the bundle, e.g. kws.edgeexit."
)
@click.option(
    "--exits", metavar="A,B+C", callback=as_names,
    help="Tensors of the exits, shallow to deep; + joins heads. [default: all outputs]",
)  # fmt: skip
@click.option(
    "--scores", metavar="S,T", callback=as_names, help="Tensors of learned scores in [0, 1], one per exit (.onnx only)."
)
@click.option(
    "--lengths", metavar="L,M", callback=as_names,
    help="Tensors that count valid positions, one per exit or one for all (.onnx only).",
)  # fmt: skip
@click.option(
    "--state", "states", multiple=True, metavar="IN=OUT", callback=_states,
    help="Input that takes a tensor's value in the next call (.onnx only). Repeatable.",
)  # fmt: skip
@click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict (.safetensors, or .pt read with weights_only)."
)
@click.option(
    "--input", "inputs", multiple=True, metavar="SPEC",
    help="NAME:DTYPE[AXES]; a name is a free axis, time=100 its example size. Repeatable.",
)  # fmt: skip
@click.option(
    "--layouts", metavar="A,B", show_default=",".join(DEFAULT_LAYOUTS), callback=_layouts,
    help="Layouts to write; one that fails is an error if named here.",
)  # fmt: skip
@click.option(
    "--score",
    type=click.Choice(GRAPH_SCORES),
    default="maxprob",
    show_default=True,
    help="Score inside the fused graph.",
)
@click.option(
    "--outputs", type=click.Choice(["auto", "logits", "probs"]), default="auto", show_default=True,
    help="What exits give; auto = probs where rows sum to 1 on every example.",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(path_type=Path),
    help="An .npz with x (and y) to compare, calibrate int8 and measure on.",
)  # fmt: skip
@click.option(
    "--tolerance", type=float,
    help="Most error over an exit's largest output. [default: 1e-4, half precision 1e-2]",
)  # fmt: skip
@click.option(
    "--format", "formats", default="onnx", show_default=True, metavar="F,G", callback=as_names,
    help="onnx, tflite, or both.",
)  # fmt: skip
@click.option(
    "--precision", "precisions", default="fp32", show_default=True, metavar="P,Q", callback=as_names,
    help="fp32, int8, int8-dynamic; tflite also int16x8, weight-only.",
)  # fmt: skip
@click.option(
    "--ranges", type=click.Choice(["minmax", "percentile", "mse", "entropy"]),
    help="How int8 ranges are estimated. [default: percentile for onnx, minmax for tflite]",
)  # fmt: skip
@click.option(
    "--drop", type=float, default=0.01, show_default=True,
    help="Accuracy that stored operating points may lose to the last exit, a fraction.",
)  # fmt: skip
@click.option("--max-drop", type=float, help="Most accuracy an exit may lose to float, a fraction. [default: no limit]")
@click.option(
    "--keep-float", multiple=True, metavar="NAME",
    help="Node or operation kept float in int8 (TFLite: capitals, GATHER). Repeatable.",
)  # fmt: skip
@click.option("--layers", is_flag=True, help="Also show the error of every layer alone in ONNX int8.")
@click.option(
    "--buckets", metavar="N,M", callback=_sizes,
    help="Sizes of the free axis in TFLite files, e.g. 100,200,400; inputs are padded.",
)  # fmt: skip
@click.option("--stage-files", is_flag=True, help="Write a TFLite chain as one file per stage.")
@click.option(
    "--c-array", type=click.Path(path_type=Path), metavar="DIR",
    help="Also write the fused TFLite graph as C for TFLite Micro.",
)  # fmt: skip
@click.option(
    "--labels", metavar="A,B,C", callback=as_class_names, help="Class names, or a text file with one per line."
)
@click.option(
    "--speech", type=click.Path(path_type=Path), metavar="JSON", callback=_speech,
    help="Features and tokens of a speech model. [default: the module's speech_spec]",
)  # fmt: skip
@preprocess_option
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@json_option
def export(
    source: str, out: Path, data: Path | None, c_array: Path | None, preprocess: tuple[str, ...], as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Make a bundle from a multi-exit network.

    SOURCE is a multi-output .onnx file (needs no torch), or package.module:function returning a torch module
    that gives its exits in order: tensors, tuples of tensors (heads that answer together: their mean answers, their
    spread is the uncertainty), or dicts of output, score (a learned score in [0, 1]) and lengths (of sequences with
    padding, how many positions are valid). Every layout is compared with the source model at every exit; one that
    differs by more than the tolerance is left out with a note, or is an error where --layouts names it.

    With --precision int8, a quarter of --data gives the ranges, the rest chooses and measures: accuracy of every exit
    in float and int8, and exit rates with the float network's thresholds and with its own, which are stored.
    TFLite is made from torch modules (fused, chain, prefix); a chain is one file with a signature per stage. Its
    sizes are fixed: for speech, --buckets makes signatures for a few lengths in one file, and inputs are padded up to
    the next one.

    --preprocess declares how pictures become the network's numbers: FIELD=VALUE separated by commas, of size,
    layout (NCHW, NHWC, NHW), color (RGB, BGR, grey), resize (cover: shorter side, then centre crop; stretch, crop,
    none), resize_size, crop, interpolation, scale, mean, std, invert, background, input; or a preset: imagenet, unit
    (0..1), signed (-1..1), pixels (0..255); or a .json file, also Hugging Face's preprocessor_config.json and timm's
    config.json. A pixel p becomes (p x scale - mean) / std. Without it, what a torch module has attached as
    preprocess, transforms or pretrained_cfg is read; none declares nothing. uint8 rows of --data are pictures then.

    A network with memory (streaming speech, recurrent cells one step at a time) has states: inputs that get an output's
    value in the next call. It is exported as chain, where stages that an input skipped catch up before they are next
    used; in Python, `engine.stream().step(x)`.

    \b
    Examples:
      edgeexit export model.onnx --exits y0,y1,y2 --out my.edgeexit
      edgeexit export model.onnx --exits y0,y1+y2+y3 --scores s0,s1 --score learned --out my.edgeexit
      edgeexit export edgeexit_models:resnet8 --weights w.safetensors --out resnet8.edgeexit
      edgeexit export net:make --format onnx,tflite --precision int8 --data d.npz --out my.edgeexit
      edgeexit export gru.onnx --exits y0,y1 --state h0=h0_next --state h1=h1_next --out gru.edgeexit
      edgeexit export net:make --input "audio:float32[batch,1,time=16000]" --out my.edgeexit
      edgeexit export net.onnx --preprocess imagenet --labels names.txt --out net.edgeexit
      edgeexit export net.onnx --preprocess size=96,scale=1/127.5,mean=1 --out net.edgeexit
      edgeexit export asr.onnx --exits p0,p1 --lengths n --speech speech.json --out asr.edgeexit
    """
    spec = _spec(preprocess=asked_preprocess(preprocess), **options)
    if c_array is not None and ("tflite" not in spec.formats or "fused" not in (spec.layouts or ("fused",))):
        raise EdgeExitError("--c-array writes a fused TFLite graph: ask for --format tflite and layout fused")
    arrays = None if data is None else read_npz(data)
    measured: list[Refit] = []
    bundle = edgeexit.export(
        source,
        out,
        spec,
        data=None if arrays is None else {k: v for k, v in arrays.items() if k not in ("y", "labels")},
        classes=None if arrays is None or data is None else labels_of(arrays, data),
        progress=say,
        report=measured.append,
    )
    sources = [] if c_array is None else _c_files(bundle, c_array)
    if as_json:
        print_json(
            {
                **describe(bundle),
                "c_files": [str(p) for p in sources],
                "refit": asdict(measured[0]) if measured else None,
            }
        )
    else:
        if measured:
            click.echo(refit_text(measured[0]) + "\n")
        click.echo(exits_table(bundle))
        if note := bundle.manifest.provenance.get("batch_note"):
            click.echo(f"note: takes one input per call: {note}")
        click.echo("\n".join([f"wrote {out}", *(f"wrote {p}" for p in sources)]))


def _spec(**options: Any) -> ExportSpec:
    try:
        from edgeexit_exporters.spec import ExportSpec
    except ImportError as e:
        raise BackendMissing(f"exporting needs the workstation extras ({e}): pip install 'edgeexit[export]'") from e
    return ExportSpec(**options)


def _c_files(bundle: Bundle, folder: Path) -> list[Path]:
    from edgeexit_exporters.tflite.c_array import c_source_of

    code = c_source_of(bundle)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{code.name}.h", folder / f"{code.name}.c"]
    for path, text in zip(paths, (code.header, code.source), strict=True):
        write_atomic(path, text)
    return paths
