"""Latency of the fused and chain layouts at every exit, relative to the single-exit network, interleaved in one run.

Targets: fused to the last exit at most 1.10x the single-exit network; fused to exit k at most 1.03x chain to
exit k; chain's Python (scores, policy, bookkeeping) under 30 us per stage beyond onnxruntime's own calls.

The single-exit network is the prefix of the last exit: the same backbone, no early heads.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import edgeexit
from benchmarks.common import finish, parser, ratios, time_together
from edgeexit.policy.policies import fixed_exit


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--bundle", type=Path, help="[default: ResNet-8 with random weights, exported now]")
    p.add_argument("--n", type=int, default=400, help="rounds of every case [default: 400]")
    p.add_argument("--threads", type=int, default=1, help="threads of the engine [default: 1]")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = a.bundle or edgeexit.export("edgeexit_models:resnet8", Path(folder, "resnet8.edgeexit")).path
        measure(edgeexit.Bundle.open(path), a)


def measure(bundle: edgeexit.Bundle, a) -> None:  # type: ignore[no-untyped-def]
    engines = {
        w: edgeexit.load(bundle, artifact=w, exit=-1, threads=a.threads, warmup=0) for w in ("fused", "chain", "prefix")
    }
    count = engines["chain"].exits
    x = engines["chain"].example()
    cases = {}
    for layout, engine in engines.items():
        for k in range(count):
            policy = fixed_exit(k, count, engine.artifact.score or "maxprob")
            cases[f"{layout} {k}"] = lambda d=engine.driver, q=policy: d.run(x, q, None)
    stages = engines["chain"].driver
    known = dict(zip(stages.names, x, strict=True))
    feeds = []
    for model, reads in zip(stages.models, stages.reads, strict=True):
        feeds.append({n: known[n] for n in reads})
        known.update(zip(model.outputs, model.run(list(feeds[-1].values())), strict=True))
    sessions = [m.session for m in stages.models]

    def bare(k: int) -> None:  # onnxruntime's own calls for the same stages, nothing else
        for session, feed in list(zip(sessions, feeds, strict=True))[: k + 1]:
            session.run(None, feed)

    for k in range(count):
        cases[f"bare onnxruntime, chain {k}"] = lambda k=k: bare(k)
    seconds = time_together(cases, a.n)
    single = seconds[f"prefix {count - 1}"]
    rows = []
    for name, spent in seconds.items():
        p50, p90 = (float(np.quantile(spent, q) * 1e6) for q in (0.5, 0.9))
        row = {"case": name, "p50_us": p50, "p90_us": p90, "of_single": ratios(spent, single)["ratio"]}
        row |= {f"of_single_{k}": v for k, v in ratios(spent, single).items() if k != "ratio"}
        if name.startswith("fused"):
            row |= {f"of_chain_{k}": v for k, v in ratios(spent, seconds[name.replace("fused", "chain")]).items()}
        if name.startswith("chain"):
            extra = spent - seconds[f"bare onnxruntime, {name}"]
            row["python_us_per_stage"] = float(np.median(extra) * 1e6 / (int(name.split()[-1]) + 1))
        rows.append(row)
    source = bundle.manifest.name
    finish("layouts", rows, a, n=a.n, threads=a.threads, engine=engines["chain"].backend.version(), bundle=source)


if __name__ == "__main__":
    main()
