"""Train a small language model of Python code with LayerSkip: `python train.py --out runs/lm-code`.

Input: the sources of Python's own standard library (PSF licence), by default those of the interpreter that runs this.
Output, in the folder: checkpoint.pt (every few minutes; --resume continues), model.safetensors and config.json (as
transformers' LlamaForCausalLM), tokenizer.json, split.json (every file with its part and sha256), metrics.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeexit.errors import DataError
from edgeexit_models.lm.config import LMConfig
from edgeexit_models.lm.evaluate import ExitQuality, greedy, measure
from edgeexit_models.lm.layerskip import LayerSkip
from edgeexit_models.lm.llama import LlamaLM
from edgeexit_models.lm.tokenizer import END, encode_all, load_tokenizer, train_bpe
from edgeexit_models.lm.trainer import Plan, Report, train
from edgeexit_models.lm.weights import load_lm, save_lm
from recipes.common import add_training_options, argument_parser, log, run_command, versions, write_json

LEFT_OUT = {
    "site-packages", "dist-packages", "__pycache__", "lib-dynload", "ensurepip", "encodings", "pydoc_data", "test",
    "tests", "idle_test",
}  # fmt: skip
"""Folders of other people's code, tables, one page of prose, and tests (some installations are without)."""
DEV, TEST = 0.05, 0.05
"""Share of the files; which ones follows from their names alone."""
SKIP = LayerSkip(dropout=0.1, scale=0.5, weights="uniform", curriculum="rotational", every=4, imitate=0.5)
PLAIN = LayerSkip(dropout=0.0, scale=0.0)
PROMPT, NEW, PROMPTS = 64, 128, 24
"""Tokens of a prompt, tokens the model adds, number of prompts of the agreement on the model's own text."""


@dataclass(frozen=True)
class Source:
    """One file of the library."""

    name: str
    """Relative, with slashes."""
    part: str
    """`train`, `dev` or `test`."""
    text: str


def part_of(name: str) -> str:
    """Where a file belongs, by a hash of its name."""
    at = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "test" if at < TEST else "dev" if at < TEST + DEV else "train"


def sources(folder: Path) -> list[Source]:
    """The library's files in the order of their names.

    Raises:
        DataError: no Python files there.
    """
    files = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        # config-* and _sysconfigdata* describe one installation
        if LEFT_OUT.intersection(parts) or parts[0].startswith(("config-", "_sysconfigdata")):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            name = "/".join(parts)
            files.append(Source(name, part_of(name), text))
    if not files:
        raise DataError(f"{folder}: no Python sources: give the folder of a standard library with --source")
    return files


def own_text(model: LlamaLM, tokens: Sequence[int], context: int) -> tuple[ExitQuality, ...]:
    """Quality of the exits on what the model itself writes after prompts spread evenly over the text."""
    starts = np.linspace(0, len(tokens) - PROMPT, PROMPTS).astype(int)
    prompts = [torch.tensor([int(t) for t in tokens[at : at + PROMPT]]) for at in starts]
    new = min(NEW, context - PROMPT)
    texts = [greedy(model, prompt, new).numpy() for prompt in prompts]
    length = PROMPT + new - 1
    rows = [measure(model, text, length, skip=PROMPT - 1) for text in texts]
    return tuple(
        ExitQuality(
            exits[0].layer, float(np.exp(np.mean([np.log(e.perplexity) for e in exits]))),
            float(np.mean([e.accuracy for e in exits])), float(np.mean([e.agreement for e in exits])),
            sum(e.tokens for e in exits),
        )
        for exits in zip(*rows, strict=True)
    )  # fmt: skip


def progress(at: Report) -> None:
    """One line."""
    log(
        f"step {at.step:6d}  {100 * at.fraction:5.1f} %  loss {at.loss:.4f}  {at.tokens / 1e6:.2f} M tokens  "
        f"{at.seconds:.0f} s ({at.cpu_seconds:.0f} of processor)"
    )


def run(args: argparse.Namespace) -> None:
    """Reads, trains, measures and writes everything."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    files = sources(args.source)
    path = args.out / "tokenizer.json"
    if not (args.resume and path.exists()):
        train_bpe([f.text for f in files if f.part == "train"], args.vocabulary).save(str(path))
    tokenizer = load_tokenizer(path)
    texts = {part: [f.text for f in files if f.part == part] for part in ("train", "dev", "test")}
    tokens = {part: encode_all(tokenizer, parts) for part, parts in texts.items()}
    split = {f.name: {"part": f.part, "sha256": hashlib.sha256(f.text.encode()).hexdigest()} for f in files}
    (args.out / "split.json").write_text(json.dumps(split, indent=0) + "\n")
    print({part: f"{len(texts[part])} files, {len(tokens[part])} tokens" for part in texts}, flush=True)
    end = tokenizer.token_to_id(END)
    torch.manual_seed(args.seed)
    model = LlamaLM(
        LMConfig(
            args.vocabulary, args.width, 3 * args.width, args.layers, args.heads, args.kv_heads, args.context,
            bos_token_id=end, eos_token_id=end,
        )
    )  # fmt: skip
    plan = Plan(
        args.steps, args.batch, args.context, args.lr, PLAIN if args.plain else SKIP, args.seed, bfloat16=args.bfloat16
    )
    done = train(
        model, tokens["train"], plan, checkpoint=args.out / "checkpoint.pt", resume=args.resume,
        time_limit=args.minutes * 60 if args.minutes else None, report=progress,
    )  # fmt: skip
    save_lm(args.out, model, torch.float16)
    shipped = load_lm(args.out)  # rounded to float16: what is measured is what is used
    result = metrics(args, shipped, plan, done, texts, tokens)
    write_json(args.out / "metrics.json", result)
    for part in ("dev", "test"):
        print(part, *(f"{e['layer']}: {e['perplexity']:.2f} {e['agreement']:.3f}" for e in result["exits"][part]))


def metrics(
    args: argparse.Namespace, model: LlamaLM, plan: Plan, done: Report, texts: dict[str, list[str]],
    tokens: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Quality of every exit, text, plan and duration."""
    held = ("dev", "test")
    return {
        "exits": {part: [asdict(e) for e in measure(model, tokens[part], args.context)] for part in held},
        "own_text": {part: [asdict(e) for e in own_text(model, tokens[part], args.context)] for part in held},
        "text": {
            part: {"files": len(texts[part]), "bytes": sum(len(t.encode()) for t in texts[part]), "tokens": len(ids)}
            for part, ids in tokens.items()
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "plan": asdict(plan), "time_limit_minutes": args.minutes, "threads": torch.get_num_threads(),
        "steps_done": done.step, "tokens_seen": done.tokens, "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        **versions(),
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    add_training_options(parser)
    parser.add_argument(
        "--source",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        help="folder of a Python standard library [default: of this interpreter]",
    )
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--minutes", type=float, help="time limit; the schedule is completed within it")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="without LayerSkip: only the last exit is trained")
    parser.add_argument("--bfloat16", action="store_true", help="matrix products in bfloat16")
    run_command(run, parser.parse_args())


if __name__ == "__main__":
    main()
