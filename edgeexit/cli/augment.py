"""`edgeexit augment`: add early exits to a trained single-exit network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeexit.calibrate.guarantees.risk import Guarantee
from edgeexit.cli import augment_shown as shown
from edgeexit.cli.common import (
    about,
    as_class_names,
    as_names,
    json_option,
    labels_of,
    print_json,
    say,
    threads_option,
)
from edgeexit.cli.pictures import asked_preprocess, preprocess_option
from edgeexit.common.files import read_npz, write_atomic
from edgeexit.errors import BackendMissing, DataError
from edgeexit.policy.scores import ANSWER_SCORES

if TYPE_CHECKING:
    from edgeexit_exporters.augment.tuned import Tune


@click.command()
@click.argument("source")
@click.option(
    "--data", type=click.Path(path_type=Path), help="An .npz with x (n, ...) and y (n,). [default of y: agreement]"
)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Folder of the bundle; written unless it is not worth it."
)
@click.option("--test", type=click.Path(path_type=Path), help="Held-out test set (.npz), measured once, at the end.")
@click.option("--list", "list_only", is_flag=True, help="Only list places where exits could be; needs no data.")
@click.option(
    "--output", metavar="NAME",
    help="The answer: a tensor of an .onnx file; a key or number of what a module returns.",
)  # fmt: skip
@click.option(
    "--outputs", type=click.Choice(["auto", "logits", "probs"]), default="auto", show_default=True,
    help="What the network gives; auto = probs where rows sum to 1 on every example.",
)  # fmt: skip
@click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict (.safetensors, or .pt read with weights_only)."
)
@click.option("--input", "inputs", multiple=True, metavar="SPEC", help="See `edgeexit export --input`. Repeatable.")
@click.option(
    "--drop", type=float, default=0.01, show_default=True, help="Accuracy or agreement that may be lost, a fraction."
)
@click.option(
    "--guarantee", metavar="LOSS<=A@C", help="Bound to prove on the last part of the rows; see `edgeexit calibrate`."
)
@click.option(
    "--groups", metavar="NAME",
    help="Array of --data, e.g. speakers; rows of one group stay in one part of the split.",
)  # fmt: skip
@click.option("--exits", type=click.IntRange(1), default=3, show_default=True, help="Most exits to add.")
@click.option("--candidates", type=click.IntRange(1), default=12, show_default=True, help="Most places to try.")
@click.option(
    "--aside",
    multiple=True,
    metavar="NAME",
    help="Input or tensor that exits need not see, e.g. an attention mask. Repeatable.",
)
@click.option("--mask", metavar="NAME", help="Input or tensor (b, t), 1 at real tokens; heads leave padding out.")
@click.option(
    "--pool", type=click.Choice(["average", "avgmax", "grid", "first", "last"]), default="avgmax", show_default=True,
    help="Pooling of features; first is the class token, last the last step.",
)  # fmt: skip
@click.option(
    "--head",
    type=click.Choice(["linear", "mlp"]),
    default="linear",
    show_default=True,
    help="mlp: 128 units, by torch.",
)
@click.option(
    "--finetune", is_flag=True,
    help="Also fine-tune heads and network (torch only), into OUT-tuned.edgeexit.",
)  # fmt: skip
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Write a .png of the Pareto front, each exit alone and the results."
)
@click.option(
    "--score",
    type=click.Choice(ANSWER_SCORES),
    default="maxprob",
    show_default=True,
    help="Score that thresholds compare.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split and of the heads."
)
@click.option(
    "--layouts", metavar="A,B", show_default="those of fused,chain,prefix,all that can be written", callback=as_names,
    help="Layouts to write; one that fails is an error if named here.",
)  # fmt: skip
@click.option(
    "--tolerance", type=float,
    help="Most error over an exit's largest output. [default: 1e-4, last exit 1e-6]",
)  # fmt: skip
@click.option("--anyway", is_flag=True, help="Write the bundle even if it is not worth it.")
@click.option(
    "--labels", "class_names", metavar="A,B,C", callback=as_class_names,
    help="Class names, or a text file with one per line.",
)  # fmt: skip
@preprocess_option
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@threads_option
@json_option
def augment(
    source: str, data: Path | None, out: Path | None, test: Path | None, list_only: bool, output: str | None,
    weights: Path | None, inputs: tuple[str, ...], guarantee: str | None, groups: str | None, finetune: bool,
    plot: Path | None, preprocess: tuple[str, ...], as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Give a trained network early exits, without retraining it.

    SOURCE is a single-output .onnx file (needs no torch), or package.module:function returning a torch module with
    one answer. The network itself stays as it is. Small heads are fitted on its own features with 60 % of the rows;
    which of them become exits, and when to stop there, is chosen on 20 %, and measured on the last 20 %. Without y
    the network's own answers are learned, and agreement takes the place of accuracy.

    The verdict is of the last 20 %: worth it (surely within the loss that was allowed, and fewer operations), not worth
    it (the reason is the result, and no bundle is written, but with --anyway), or undecided: too few rows to tell, or
    slower on this machine only; then the bundle is written, and the text says what would decide.

    \b
    Examples:
      edgeexit augment model.onnx --list
      edgeexit augment model.onnx --data train.npz --test test.npz --out adaptive.edgeexit
      edgeexit augment mynet:make --weights w.pt --data train.npz --finetune --out my.edgeexit
      edgeexit augment model.onnx --data d.npz --guarantee "accuracy_gap<=0.02@0.95" --out my.edgeexit
    """
    try:
        from edgeexit_exporters.augment import flow, measured
        from edgeexit_exporters.augment.spec import AugmentSpec
        from edgeexit_exporters.exporting import open_source
        from edgeexit_exporters.spec import ExportSpec
    except ImportError as e:
        raise BackendMissing(f"augment needs the workstation extras ({e}): pip install 'edgeexit[augment]'") from e
    if not list_only and (data is None or out is None):
        raise DataError("augment takes --data and --out, or --list alone")
    spec = AugmentSpec(
        guarantee=None if guarantee is None else Guarantee.parse(guarantee), preprocess=asked_preprocess(preprocess),
        **options,
    )  # fmt: skip
    reading = ExportSpec(exits=[output] if output else None, weights=weights, inputs=inputs, outputs=spec.outputs)
    opened = open_source(source, reading, single=True)
    if list_only:
        for note in opened.joint.notes:
            say(f"note: {note}")
        places, total = flow.places_of(opened, spec.candidates, spec.aside, spec.mask)
        if as_json:
            print_json({"macs": total, "places": [{"name": p.name, **asdict(p)} for p in places]})
        else:
            click.echo(shown.places(places, total))
        return
    assert data is not None and out is not None
    if plot is not None and plot.suffix != ".png":
        raise DataError(f"--plot {plot}: expected a name that ends in .png")
    arrays = read_npz(data)
    others = None if test is None else read_npz(test)  # before minutes of work
    augmented = flow.augment(
        opened,
        _inputs(arrays),
        labels_of(arrays, data),
        out,
        spec,
        groups=None if groups is None else _groups(arrays, groups, data),
        tune=_tuner(spec.seed, spec.threads) if finetune else None,
        progress=say,
    )
    tested = None
    if others is not None and test is not None and augmented.bundle is not None:
        with about(test):
            tested = measured.on_test(augmented, _inputs(others), labels_of(others, test))
    elif test is not None:
        say(f"note: {test} was not measured, as no bundle was written")
    if plot is not None:
        write_atomic(plot, shown.plot(augmented, tested))
    if as_json:
        print_json({**shown.document(augmented), "test": None if tested is None else asdict(tested)})
    else:
        click.echo(shown.text(augmented, tested))
        for bundle in (augmented.bundle, None if augmented.tuned is None else augmented.tuned.bundle):
            if bundle is not None:
                click.echo(f"wrote {bundle.path}: edgeexit run {bundle.path} --input ...")


def _groups(arrays: dict[str, Any], name: str, path: Path) -> Any:
    if name not in arrays:
        raise DataError(f"{path}: no array {name!r} for --groups; it holds {', '.join(arrays)}")
    return arrays[name]


def _inputs(arrays: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in arrays.items() if k not in ("y", "labels")}


def _tuner(seed: int, threads: int) -> Tune:
    try:
        from edgeexit_models import finetune
    except ImportError as e:
        raise BackendMissing(f"fine-tuning needs torch ({e}): pip install 'edgeexit[export]'") from e

    def tune(module: Any, data: Any, costs: Any) -> None:
        finetune(module, data, costs, seed=seed, threads=threads, progress=say)

    return tune
