"""SmolLM2-135M from its file to a verdict: export, proof, simulation, text. See README.md."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edgeexit import lm
from edgeexit.cli.lm_shown import lm_text
from edgeexit.lm.text.tokenizer import encoded, text_of
from edgeexit_exporters.lm import LmExportSpec, export_lm

PROMPT = "To be, or not to be, that is the question: whether"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, help="the .gguf file, or a folder with config.json and safetensors")
    parser.add_argument("text", type=Path, help="text of the kind that it will write, a few hundred kilobytes")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where the model does not bring one")
    parser.add_argument("--out", type=Path, default=Path("smollm2.edgeexit"))
    args = parser.parse_args()
    text = args.text.read_text("utf-8")
    cut = len(text) * 3 // 4  # what is studied was not fitted on
    wish = LmExportSpec((5, 10, 15, 20, 25), ("fp32", "int8", "int4"), maps=True, shortlist=8192)
    made = export_lm(args.model, args.out, wish, tokenizer=args.tokenizer or "own", text=text[:cut], progress=print)
    print(f"\n{lm_text(made.bundle.manifest)}\n")
    model = lm.load_lm(made.bundle)
    tokenizer = text_of(model)
    ids = np.array(tokenizer.encode(text[cut:]), np.int64)
    found = lm.tune(model, ids, prompts=6, max_tokens=64, n=5)
    print(f"{found.verdict.text}\n")
    for setting in (lm.Decoding(), lm.Decoding("lookup"), lm.Decoding("speculative", 0, 1)):
        answer = lm.Answer(model, encoded(model, tokenizer, PROMPT), setting, max_tokens=48, text=tokenizer)
        written = "".join(piece.text for piece in answer)
        print(f"{setting}: {answer.result.tokens_per_second:.1f} tokens/s\n  {PROMPT}{written}")


if __name__ == "__main__":
    main()
