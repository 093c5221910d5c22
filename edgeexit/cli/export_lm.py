"""`edgeexit export-lm`: make a bundle from a decoder language model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeexit.bundle.codec import to_json
from edgeexit.cli.common import json_option, names, print_json, read_text, say
from edgeexit.cli.lm_shown import lm_text
from edgeexit.errors import BackendMissing, EdgeExitError


def _layers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    layers = names(text)
    if layers is None:
        return None
    if not all(w.isdecimal() and len(w) < 9 for w in layers):
        raise EdgeExitError(f"--stages {text}: expected layer numbers, e.g. 2,4,8")
    return tuple(int(w) for w in layers)


def _tuple(context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(names(text) or ())


@click.command("export-lm")
@click.argument("source")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, help="Folder of the bundle, e.g. smollm2.edgeexit."
)
@click.option(
    "--stages", metavar="A,B,C", callback=_layers,
    help="Layers with an exit behind them; the last always has one. [default: four stages]",
)  # fmt: skip
@click.option(
    "--precision", "precisions", default="fp32", show_default=True, metavar="P,Q", callback=_tuple,
    help="fp32, int8, int4, int8-float or int4-float (float products), int8-dynamic.",
)  # fmt: skip
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for a MODULE:FUNCTION source.")
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="A tokenizer.json. [default: the one beside the weights]"
)
@click.option("--no-tokenizer", is_flag=True, help="Leave the tokenizer out; callers pass token ids.")
@click.option(
    "--text", type=click.Path(path_type=Path),
    help="Typical text, for --maps, --shortlist and the proof. [default: no proof]",
)  # fmt: skip
@click.option("--maps", is_flag=True, help="Fit a linear map before the head of every early exit.")
@click.option("--heads", type=click.Path(path_type=Path), help="Trained maps (.safetensors, see save_maps).")
@click.option(
    "--shortlist", type=click.IntRange(1), metavar="N",
    help="Restrict early exits to the N most frequent tokens of the text. [default: all]",
)  # fmt: skip
@click.option(
    "--block", type=click.IntRange(2), default=5, show_default=True,
    help="Most tokens per call in the proof; a draft of 4 is checked as 5.",
)  # fmt: skip
@click.option(
    "--proof-tokens", type=click.IntRange(2), default=128, show_default=True, help="Tokens of text in the proof."
)
@click.option(
    "--kv/--no-kv", "keys_values", default=True, help="Write keys and values for skipped stages. [default: --kv]"
)
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@json_option
def export_lm(
    source: str, out: Path, weights: Path | None, tokenizer: Path | None, no_tokenizer: bool, text: Path | None,
    overwrite: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Make a bundle from a decoder language model of the Llama family.

    SOURCE is a folder with config.json and safetensors (as Hugging Face's LlamaForCausalLM writes it), a .gguf file, or
    package.module:function returning a decoder module. The bundle has a file per stage, one head for all exits and the
    embedding; every part is compared with the source.

    With --text, each artifact is run one token at a time and with several together, as speculation does, and what that
    changes stands in the bundle. `verified` means: no token of the text, and no logit by more than 0.001.

    \b
    Examples:
      edgeexit export-lm models/SmolLM2-135M --stages 5,15,25 --text book.txt --out smollm2.edgeexit
      edgeexit export-lm SmolLM2.gguf --precision int4 --maps --text book.txt --out smollm2.edgeexit
      edgeexit export-lm my_net:make --weights w.safetensors --no-tokenizer --out my.edgeexit
    """
    if tokenizer is not None and no_tokenizer:
        raise EdgeExitError("--tokenizer or --no-tokenizer, not both")
    lm = _exporter()
    exported = lm.export_lm(
        source,
        out,
        lm.LmExportSpec(**options),
        weights=weights,
        tokenizer=None if no_tokenizer else tokenizer or "own",
        text=None if text is None else read_text(text),
        overwrite=overwrite,
        progress=say,
    )
    if as_json:
        print_json({**to_json(exported.bundle.manifest), "exits_agreement": [asdict(e) for e in exported.exits]})
    else:
        click.echo(lm_text(exported.bundle.manifest))
        click.echo(f"wrote {out}")


def _exporter() -> Any:
    try:
        from edgeexit_exporters import lm
    except ImportError as e:
        raise BackendMissing(f"exporting a language model needs more ({e}): pip install 'edgeexit[lm]'") from e
    return lm
