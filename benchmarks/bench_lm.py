"""Plain decoding, prompt lookup, self-speculation and DEL on one bundle, interleaved; and what the simulator foretold.

The settings come from the simulator, on prompts that are not timed: its best lookup, its best self-speculation and del.
Every timed prompt is then answered by all of them in a random order, `--repeats` times. Ratios are to plain decoding of
the same prompt in the same repeat. What is foretold is by costs measured before and after every repeat, as a machine's
speed drifts; `drift` says how far: the fastest foretold speed over the slowest.
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
    found = {"plain": Decoding()}
    for name, method in (("lookup", "lookup"), ("speculative", "speculative"), ("del", "del")):
        best = next((p for p in verdict.predictions if p.simulated.setting.method == method), None)
        if best is not None:
            found[name] = best.simulated.setting
    return found


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
    found: dict[str, list[list[Generation]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for answers in found.values():
            answers.append([])
        for prompt in prompts:
            for i in rng.permutation(len(cases)):
                name = list(cases)[i]
                answer = Answer(model, prompt, cases[name], max_tokens=tokens, costs=costs).run()
                found[name][-1].append(answer)
        after()
    return found


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
    p.add_argument("bundle", type=Path)
    p.add_argument("--text", type=Path, required=True, help="held-out text")
    p.add_argument("--artifact")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--prompts", type=int, default=10, help="timed; as many others choose the settings")
    p.add_argument("--prompt-tokens", type=int, default=64)
    p.add_argument("--max-tokens", type=int, default=128)
    p.add_argument("--draft", type=int, default=8)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--n", type=int, default=15, help="rounds of the cost measurement")
    a = p.parse_args()
    model = load_lm(a.bundle, artifact=a.artifact, threads=a.threads)
    ids = text_of(model).encode(a.text.read_text("utf-8"))
    all_prompts = sample_prompts(model, ids, 2 * a.prompts, a.prompt_tokens)
    design, told = all_prompts[::2], all_prompts[1::2]
    tables: list[Costs] = []

    def table() -> None:
        tables.append(measure(model, min(a.draft + 1, model.spec.context - 1), n=a.n))

    table()
    costs = tables[0]
    verdict = decide(record(model, design, a.max_tokens), costs, draft=a.draft, proof=model.proof)
    cases = chosen(verdict)
    traces = record(model, told, a.max_tokens)
    runs = timed(model, told, cases, costs, a.max_tokens, a.repeats, table)
    rows = []
    for name, setting in cases.items():
        found = row(name, setting, runs[name], runs["plain"])
        speeds = [simulate([CostTable(t, c) for t in traces], setting).tokens_per_second for c in tables]
        found["predicted"] = len(speeds) / sum(1 / s for s in speeds)
        found["error"] = found["predicted"] / found["tokens_per_second"] - 1
        found["drift"] = max(speeds) / min(speeds)
        rows.append(found)
    proof = None if model.proof is None else model.proof.lossless
    shares = [c.busy for c in tables if c.busy is not None]
    print(f"verdict: {verdict.text}")
    finish("lm", rows, a, n=a.repeats, threads=a.threads, engine=model.engine, bundle=model.name,
           artifact=model.artifact, proof=proof, prompts=len(told), prompt_tokens=a.prompt_tokens,
           max_tokens=a.max_tokens, cost_rounds=a.n, busy=max(shares, default=None), verdict=verdict.text)  # fmt: skip


if __name__ == "__main__":
    main()
