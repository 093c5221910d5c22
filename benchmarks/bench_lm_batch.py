"""Speed of batched decoding relative to the same prompts one by one: plain decoding and SkipDecode's schedule.

Prompts of several lengths from held-out text, all decoded to the same number of tokens, all cases in a random order in
every repeat. Ratios are of tokens per second to plain decoding of the same prompts one by one, in the same repeat.
`as_alone` counts prompts whose text equals that of the prompt decoded alone with the same method.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import finish, parser
from edgeexit.lm.batch import AnswerBatch
from edgeexit.lm.generate import Generation
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import text_of
from edgeexit.lm.tuning.tune import sample_prompts


def decoded(
    model: LanguageModel, prompts: list[list[int]], setting: Decoding, size: int, tokens: int
) -> tuple[float, list[Generation]]:
    """Tokens per second and answers, `size` prompts at a time."""
    answers: list[Generation] = []
    seconds = 0.0
    for at in range(0, len(prompts), size):
        generations = AnswerBatch(model, prompts[at : at + size], setting, max_tokens=tokens).run()
        answers += generations
        seconds += max(g.seconds for g in generations)
    return sum(len(g.ids) for g in answers) / seconds, answers


def main() -> None:
    p = parser(__doc__)
    p.add_argument("bundle", type=Path, help="bundle of a language model")
    p.add_argument("--text", type=Path, required=True, help="held-out text")
    p.add_argument("--artifact", help="artifact of the bundle [default: its first that runs here]")
    p.add_argument("--threads", type=int, default=1, help="threads of the engine [default: 1]")
    p.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8], help="batch sizes")
    p.add_argument("--exits", type=int, nargs="*", help="exits of SkipDecode's schedule [default: all but the last]")
    p.add_argument("--max-tokens", type=int, default=96, help="tokens to generate [default: 96]")
    p.add_argument("--n", type=int, default=9, help="repeats [default: 9]")
    a = p.parse_args()
    model = load_lm(a.bundle, artifact=a.artifact, threads=a.threads)
    model.spec = replace(model.spec, eos=())  # all to the same length
    ids = text_of(model).encode(a.text.read_text("utf-8"))
    prompts = [p[: 16 + 6 * (i % 8)] for i, p in enumerate(sample_prompts(model, ids, max(a.sizes), 64))]
    exits = range(1, model.count - 1) if a.exits is None else a.exits
    settings = [Decoding(), *(Decoding("skip", exit=e) for e in exits)]
    cases = [(setting, size) for setting in settings for size in a.sizes]
    speeds, rng = np.zeros((len(cases), a.n)), np.random.default_rng(0)
    texts: dict[int, list[tuple[int, ...]]] = {}
    for repeat in range(-1, a.n):
        for case in rng.permutation(len(cases)):
            speed, answers = decoded(model, prompts, *cases[case], a.max_tokens)
            texts[case] = [g.ids for g in answers]
            if repeat >= 0:
                speeds[case, repeat] = speed
    rows: list[dict[str, Any]] = []
    for case, (setting, size) in enumerate(cases):
        ratio = speeds[case] / speeds[0]
        alone = texts[case - case % len(a.sizes)]
        rows.append({
            "case": f"{setting}, {size} at a time", "tokens_per_second": float(np.median(speeds[case])),
            "ratio": float(np.median(ratio)), "low": float(np.quantile(ratio, 0.1)),
            "high": float(np.quantile(ratio, 0.9)), "prompts": len(prompts),
            "as_alone": sum(x == y for x, y in zip(texts[case], alone, strict=True)),
        })  # fmt: skip
    finish("lm_batch", rows, a, n=a.n, threads=a.threads, engine=model.engine, bundle=model.name,
           artifact=model.artifact, prompts=len(prompts), max_tokens=a.max_tokens)  # fmt: skip


if __name__ == "__main__":
    main()
