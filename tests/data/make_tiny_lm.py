"""Makes the tiny language models the tests run: `python tests/data/make_tiny_lm.py` (needs the export extras).

Four layers, an exit after each, 272 tokens, trained for a minute on this repository's own licence text, so that exits
agree more often the later they are. `tiny-lm.edgeexit`: fp32 and int8. `tiny-lm-short.edgeexit`: early exits with maps
that choose from 64 tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch

from edgeexit_exporters.lm import LmExportSpec, export_lm
from edgeexit_models.lm.config import LMConfig
from edgeexit_models.lm.layerskip import LayerSkip
from edgeexit_models.lm.llama import LlamaLM
from edgeexit_models.lm.tokenizer import encode_all, train_bpe
from edgeexit_models.lm.trainer import Plan, train

DATA = Path(__file__).parent
TEXT = Path(__file__).parents[2] / "LICENSE"
STAGES = (1, 2, 3, 4)


def main() -> None:
    torch.manual_seed(0)
    text = TEXT.read_text("utf-8")
    tokenizer = train_bpe([text], 272)
    ids = encode_all(tokenizer, [text])
    config = LMConfig(272, 24, 48, 4, 2, 1, 96, eos_token_id=0)
    model = LlamaLM(config)
    recipe = LayerSkip(dropout=0.1, scale=0.5, weights="uniform", curriculum="rotational", every=2)
    train(model, ids, Plan(steps=700, batch=8, context=64, lr=1e-2, recipe=recipe))
    path = DATA / "tokenizer.json"
    tokenizer.save(str(path))
    try:
        for name, wish in (
            ("tiny-lm", LmExportSpec(STAGES, ("fp32", "int8"), block=9, proof_tokens=64)),
            ("tiny-lm-short", LmExportSpec(STAGES, maps=True, shortlist=64, block=9, proof_tokens=64)),
        ):
            done = export_lm(model, DATA / f"{name}.edgeexit", wish, tokenizer=path, text=text, overwrite=True)
            print(name, *(f"{e.layer}: {e.shown:.2f}" for e in done.exits))
            for a in done.bundle.manifest.artifacts:
                print(a.name, a.proof)
    finally:
        path.unlink()


if __name__ == "__main__":
    main()
