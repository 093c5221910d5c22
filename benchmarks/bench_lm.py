"""Speed of plain decoding, prompt lookup, self-speculation and DEL on one bundle, and the simulator's predictions.

The simulator chooses the settings on prompts that are not timed: the best lookup, self-speculation and DEL. Every timed
prompt is then decoded with all of them in a random order, `--repeats` times. Ratios are to plain decoding of the same
prompt in the same repeat. Predictions use costs measured before and after every repeat, because a machine's speed
drifts; `drift` is the fastest predicted speed over the slowest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import finish, parser
from edgeexit.lm.costs import Costs
from edgeexit.lm.generate import Answer, Generation
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import text_of
from edgeexit.lm.tuning.measure_costs import measure
from edgeexit.lm.tuning.simulate import CostTable, simulate
from edgeexit.lm.tuning.traces import record
from edgeexit.lm.tuning.tune import sample_prompts
from edgeexit.lm.tuning.verdict import DecodingVerdict, decide


def chosen(verdict: DecodingVerdict) -> dict[str, Decoding]:
    """Settings by name, the best of their kind on the design half."""
    settings = {"plain": Decoding()}
    for name, method in (("lookup", "lookup"), ("speculative", "speculative"), ("del", "del")):
        best = next((p for p in verdict.predictions if p.simulated.setting.method == method), None)
        if best is not None:
            settings[name] = best.simulated.setting
    return settings


def timed(
    model: LanguageModel,
    prompts: list[list[int]],
    cases: dict[str, Decoding],
    costs: Costs,
    tokens: int,
    repeats: int,
    after: Callable[[], object],
) -> dict[str, list[list[Generation]]]:
    """Per case and repeat, the answers to all prompts; `after` is called after every repeat."""
    rng = np.random.default_rng(0)
    generations: dict[str, list[list[Generation]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for answers in generations.values():
            answers.append([])
        for prompt in prompts:
            for i in rng.permutation(len(cases)):
                name = list(cases)[i]
                answer = Answer(model, prompt, cases[name], max_tokens=tokens, costs=costs).run()
                generations[name][-1].append(answer)
        after()
    return generations


def row(name: str, setting: Decoding, runs: list[list[Generation]], plain: list[list[Generation]]) -> dict[str, Any]:
    """One case: speed, its ratio to plain decoding, acceptance, equality."""
    answers = [a for run in runs for a in run]
    base = [a for run in plain for a in run]
    ratios = [(a.tokens_per_second or 0) / (b.tokens_per_second or 1) for a, b in zip(answers, base, strict=True)]
    drafted = sum(a.drafted for a in answers)
    return {
        "case": name,
        "setting": str(setting),
        "tokens_per_second": sum(len(a.ids) for a in answers) / sum(a.seconds for a in answers),
        "ratio": math.exp(sum(math.log(r) for r in ratios) / len(ratios)),
        "low": float(np.quantile(ratios, 0.1)),
        "high": float(np.quantile(ratios, 0.9)),
        "acceptance": sum(a.accepted for a in answers) / drafted if drafted else None,
        "tokens_per_round": sum(len(a.ids) for a in answers) / sum(a.rounds for a in answers),
        "equal": sum(a.ids == b.ids for a, b in zip(runs[0], plain[0], strict=True)),
        "prompts": len(runs[0]),
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("bundle", type=Path, help="bundle of a language model")
    p.add_argument("--text", type=Path, required=True, help="held-out text")
    p.add_argument("--artifact", help="artifact of the bundle [default: its first that runs here]")
    p.add_argument("--threads", type=int, default=1, help="threads of the engine [default: 1]")
    p.add_argument(
        "--prompts", type=int, default=10, help="timed prompts; as many others choose the settings [default: 10]"
    )
    p.add_argument("--prompt-tokens", type=int, default=64, help="length of a prompt [default: 64]")
    p.add_argument("--max-tokens", type=int, default=128, help="tokens to generate [default: 128]")
    p.add_argument("--draft", type=int, default=8, help="longest draft, tokens [default: 8]")
    p.add_argument("--repeats", type=int, default=3, help="repeats of all prompts [default: 3]")
    p.add_argument("--n", type=int, default=15, help="rounds of the cost measurement")
    a = p.parse_args()
    model = load_lm(a.bundle, artifact=a.artifact, threads=a.threads)
    ids = text_of(model).encode(a.text.read_text("utf-8"))
    all_prompts = sample_prompts(model, ids, 2 * a.prompts, a.prompt_tokens)
    design, timed_prompts = all_prompts[::2], all_prompts[1::2]
    tables: list[Costs] = []

    def table() -> None:
        tables.append(measure(model, min(a.draft + 1, model.spec.context - 1), n=a.n))

    table()
    costs = tables[0]
    verdict = decide(record(model, design, a.max_tokens), costs, draft=a.draft, proof=model.proof)
    cases = chosen(verdict)
    traces = record(model, timed_prompts, a.max_tokens)
    runs = timed(model, timed_prompts, cases, costs, a.max_tokens, a.repeats, table)
    rows = []
    for name, setting in cases.items():
        figures = row(name, setting, runs[name], runs["plain"])
        speeds = [simulate([CostTable(t, c) for t in traces], setting).tokens_per_second for c in tables]
        figures["predicted"] = len(speeds) / sum(1 / s for s in speeds)
        figures["error"] = figures["predicted"] / figures["tokens_per_second"] - 1
        figures["drift"] = max(speeds) / min(speeds)
        rows.append(figures)
    proof = None if model.proof is None else model.proof.lossless
    shares = [c.busy for c in tables if c.busy is not None]
    print(f"verdict: {verdict.text}")
    finish("lm", rows, a, n=a.repeats, threads=a.threads, engine=model.engine, bundle=model.name,
           artifact=model.artifact, proof=proof, prompts=len(timed_prompts), prompt_tokens=a.prompt_tokens,
           max_tokens=a.max_tokens, cost_rounds=a.n, busy=max(shares, default=None), verdict=verdict.text)  # fmt: skip


if __name__ == "__main__":
    main()
