"""Overhead of dividing a decoder into stages: its chain relative to the same graphs joined into one file.

The one file holds all layers and the head, with the same cache on the host; both choose tokens by argmax, some in a row
as in a text. Each runs in a process of its own, started several times, because the memory placement of half a gigabyte
of weights in a process has more influence than the overhead. Target: the chain at most 1.03 times the one file. With
`--dividing`, bundles of the same weights with other stages are measured too.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import finish, parser, ratios
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.lm_spec import DecoderFiles
from edgeexit.engine import backends
from edgeexit.engine.backends import Runnable
from edgeexit.lm.cache import Cache
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import Array, LanguageModel
from edgeexit.lm.positions import POSITION_INPUTS

TOKENS = 6
"""In a row."""
WARM = 3
"""Calls before those that count: the first ones fill an engine's arena."""


def one_file(bundle: Bundle, artifact: str, out: Path) -> None:
    """Join an artifact's stages and head."""
    import onnx
    from onnx import compose

    record = bundle.manifest.artifact(artifact)
    files = DecoderFiles.of(record.models, record.data)
    whole: onnx.ModelProto | None = None
    for k, file in enumerate((*files.stages, files.head)):
        graph = onnx.load(bundle.file(file))
        graph = compose.add_prefix(graph, f"s{k}/", rename_inputs=False, rename_outputs=False)
        hidden = f"hidden_{k}" if k else "hidden"
        _rename(graph, {"hidden": hidden, "hidden_out": f"hidden_{k + 1}"})
        if whole is None:
            whole = graph
            continue
        _rename(graph, {n: f"{n}_{k}" for n in POSITION_INPUTS})
        whole = compose.merge_models(whole, graph, io_map=[(hidden, hidden)])
        _rename(whole, {f"{n}_{k}": n for n in POSITION_INPUTS})
        inputs = {i.name: i for i in whole.graph.input}
        del whole.graph.input[:]
        whole.graph.input.extend(inputs.values())
    assert whole is not None
    onnx.save(whole, out)


def _rename(model: Any, names: dict[str, str]) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for held in (node.input, node.output):
            held[:] = [names.get(n, n) for n in held]


def filled(model: LanguageModel, length: int) -> Cache:
    """A cache that so many positions are in."""
    cache, rng = Cache(model.spec), np.random.default_rng(0)
    for held in (r for stage in cache.rows for r in stage):
        held[:] = 0.1 * rng.standard_normal(held.shape)
    cache.lengths = [length] * model.count
    return cache


def tokens_by_chain(model: LanguageModel, cache: Cache, length: int) -> Callable[[], int]:
    def run() -> int:
        cache.rollback(length)
        token = 7
        for _ in range(TOKENS):
            hidden = model.embed([token])
            for k in range(model.count):
                hidden = model.run_stage(k, hidden, cache)
            token = int(model.logits(hidden)[-1].argmax())
        return token

    return run


def tokens_by_one_file(model: LanguageModel, runnable: Runnable, cache: Cache, length: int) -> Callable[[], int]:
    order = [n for n in runnable.inputs if n.startswith("past_key_values.")]
    rows = {
        f"past_key_values.{i}.{what}": cache.rows[k][2 * at + j]
        for k in range(model.count)
        for at, i in enumerate(model.spec.layers_of(k))
        for j, what in enumerate(("key", "value"))
    }
    caches = [rows[n] for n in order]
    at = {n: i for i, n in enumerate(runnable.inputs)}
    new = [runnable.outputs.index(n.replace("past_key_values", "present")) for n in order]
    logits = runnable.outputs.index("logits")

    def run() -> int:
        token, values = 7, list[Any]([None] * len(at))
        for done in range(length, length + TOKENS):
            values[at["hidden"]] = model.embed([token])
            cache.lengths = [done] * model.count
            rows = len(cache.pages(0, 1)[0])
            for name, value in zip(POSITION_INPUTS, model.positions.of(done, 1, rows), strict=True):
                values[at[name]] = value
            for name, past in zip(order, caches, strict=True):
                values[at[name]] = past[:rows]
            outputs = runnable.run(values)
            for past, i in zip(caches, new, strict=True):
                past[done : done + 1] = outputs[i]
            token = int(outputs[logits][0, -1].argmax())
        return token

    return run


def serve(pipe: Connection, bundle: Path, artifact: str, threads: int, one: Path | None, lengths: list[int]) -> None:
    """A case's process: for every number that comes, the seconds of its tokens after so many positions."""
    runnable = None if one is None else backends.get("onnx").load(one, threads)[0]
    model = load_lm(bundle, artifact=artifact, threads=threads)
    runs = {
        n: tokens_by_chain(model, filled(model, n), n)
        if runnable is None
        else tokens_by_one_file(model, runnable, filled(model, n), n)
        for n in lengths
    }
    gc.disable()
    for run in runs.values():
        for _ in range(WARM):
            run()
    pipe.send(None)
    while (length := pipe.recv()) is not None:
        runs[length]()  # brings the weights back into the caches, as in steady use
        start = time.perf_counter()
        runs[length]()
        pipe.send(time.perf_counter() - start)


def timed(jobs: dict[str, tuple[Any, ...]], lengths: list[int], n: int, starts: int) -> dict[tuple[int, str], Array]:
    """Seconds `(starts * n,)` of every case after so many positions, all processes of a start interleaved."""
    context, rng = get_context("spawn"), np.random.default_rng(0)
    seconds: dict[tuple[int, str], list[float]] = {(length, name): [] for length in lengths for name in jobs}
    for _ in range(starts):
        pipes, workers = {}, []
        for i in rng.permutation(len(jobs)):
            name = [*jobs][i]
            pipes[name], theirs = context.Pipe()
            workers.append(context.Process(target=serve, args=(theirs, *jobs[name], lengths)))
            workers[-1].start()
            pipes[name].recv()
        for length in [x for x in lengths for _ in range(n)]:
            for i in rng.permutation(len(jobs)):
                name = [*jobs][i]
                pipes[name].send(length)
                seconds[length, name].append(pipes[name].recv())
        for pipe in pipes.values():
            pipe.send(None)
        for worker in workers:
            worker.join()
    return {case: np.array(spent) for case, spent in seconds.items()}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("bundle", type=Path, help="bundle of a language model")
    p.add_argument("--dividing", type=Path, nargs="*", default=[], help="bundles of the same weights, other stages")
    p.add_argument("--artifact", help="artifact of the bundle [default: its first that runs here]")
    p.add_argument("--threads", type=int, default=1, help="threads of the engine [default: 1]")
    p.add_argument("--n", type=int, default=40, help="rounds per start [default: 40]")
    p.add_argument("--starts", type=int, default=5, help="starts of all processes [default: 5]")
    p.add_argument(
        "--positions", type=int, nargs="+", default=[16, 120, 240], help="positions in the text to measure at"
    )
    a = p.parse_args()
    models = {b: load_lm(b, artifact=a.artifact, threads=a.threads) for b in (a.bundle, *a.dividing)}
    m = models[a.bundle]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whole.onnx")
        one_file(m.bundle, m.artifact, path)
        jobs: dict[str, tuple[Any, ...]] = {
            f"stages after {', '.join(map(str, model.spec.stages))}": (b, model.artifact, a.threads, None)
            for b, model in models.items()
        }
        jobs["one file"] = (a.bundle, m.artifact, a.threads, path)
        spent = timed(jobs, a.positions, a.n, a.starts)
    rows = []
    for (length, name), times in spent.items():
        shares = {f"of_one_file_{k}": v for k, v in ratios(times, spent[length, "one file"]).items()}
        each = [float(np.median(t)) for t in np.split(times / spent[length, "one file"], a.starts)]
        token = float(np.median(times) * 1e3 / TOKENS)
        rows.append({"case": f"{length} before: {name}", "ms_per_token": token, **shares,
                     "ratio_of_every_start": " ".join(f"{r:.3f}" for r in each)})  # fmt: skip
    finish(
        "lm_chain", rows, a, n=a.n * a.starts, starts=a.starts, threads=a.threads, engine=m.engine, bundle=m.name,
        artifact=m.artifact,
    )  # fmt: skip


if __name__ == "__main__":
    main()
