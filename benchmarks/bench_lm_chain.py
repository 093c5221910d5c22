"""What dividing a decoder into stages costs: its chain against the same graphs joined into one file.

The one file holds all layers and the head, with the same cache on the host; both choose tokens by argmax, some in a row
as in a text, so that each finds its own weights in the processor's caches. Target: the chain at most 1.03 times the one
file. With `--dividing` a bundle of other stages of the same weights is timed beside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import finish, parser, ratios, time_together
from edgeexit import backends
from edgeexit.bundle import Bundle
from edgeexit.lm.cache import Cache
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.spec import DecoderFiles

ABOUT = ("cos", "sin", "mask")
TOKENS = 12
"""In a row."""
WARM = 3
"""Calls before those that count: the first ones fill an engine's arena."""


def one_file(bundle: Bundle, artifact: str, out: Path) -> None:
    """Join an artifact's stages and head."""
    import onnx
    from onnx import compose

    files = DecoderFiles.of((found := bundle.manifest.artifact(artifact)).models, found.data)
    whole: onnx.ModelProto | None = None
    for k, file in enumerate((*files.stages, files.head)):
        graph = onnx.load(bundle.file(file))
        graph = compose.add_prefix(graph, f"s{k}/", rename_inputs=False, rename_outputs=False)
        given = f"hidden_{k}" if k else "hidden"
        _rename(graph, {"hidden": given, "hidden_out": f"hidden_{k + 1}"})
        if whole is None:
            whole = graph
            continue
        _rename(graph, {n: f"{n}_{k}" for n in ABOUT})
        whole = compose.merge_models(whole, graph, io_map=[(given, given)])
        _rename(whole, {f"{n}_{k}": n for n in ABOUT})
        seen = {i.name: i for i in whole.graph.input}
        del whole.graph.input[:]
        whole.graph.input.extend(seen.values())
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


def tokens_by_one_file(model: LanguageModel, path: Path, cache: Cache, length: int) -> Callable[[], int]:
    (runnable,) = backends.get("onnx").load(path, model.threads)
    order = [n for n in runnable.inputs if n.startswith("past_key_values.")]
    rows = {
        f"past_key_values.{i}.{what}": cache.rows[k][2 * at + j]
        for k in range(model.count)
        for at, i in enumerate(model.spec.layers_of(k))
        for j, what in enumerate(("key", "value"))
    }
    kept = [rows[n] for n in order]
    at = {n: i for i, n in enumerate(runnable.inputs)}
    new = [runnable.outputs.index(n.replace("past_key_values", "present")) for n in order]
    logits = runnable.outputs.index("logits")

    def run() -> int:
        token, values = 7, list[Any]([None] * len(at))
        for done in range(length, length + TOKENS):
            values[at["hidden"]] = model.embed([token])
            for name, told in zip(ABOUT, model.positions.of(done, 1), strict=True):
                values[at[name]] = told
            for name, held in zip(order, kept, strict=True):
                values[at[name]] = held[:done]
            found = runnable.run(values)
            for held, i in zip(kept, new, strict=True):
                held[done : done + 1] = found[i]
            token = int(found[logits][0, -1].argmax())
        return token

    return run


def main() -> None:
    p = parser(__doc__)
    p.add_argument("bundle", type=Path)
    p.add_argument("--dividing", type=Path, nargs="*", default=[], help="bundles of the same weights, other stages")
    p.add_argument("--artifact")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--n", type=int, default=100)
    p.add_argument("--positions", type=int, nargs="+", default=[16, 120, 240])
    a = p.parse_args()
    models = [load_lm(b, artifact=a.artifact, threads=a.threads) for b in (a.bundle, *a.dividing)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whole.onnx")
        one_file(models[0].bundle, models[0].artifact, path)
        for length in a.positions:
            cases = {
                f"stages after {', '.join(map(str, m.spec.stages))}": tokens_by_chain(m, filled(m, length), length)
                for m in models
            }
            cases["one file"] = tokens_by_one_file(models[0], path, filled(models[0], length), length)
            for case in cases.values():
                for _ in range(WARM):
                    case()
            spent = time_together(cases, a.n)
            for name, times in spent.items():
                shares = {f"of_one_file_{k}": v for k, v in ratios(times, spent["one file"]).items()}
                rows.append(
                    {
                        "case": f"{length} before: {name}",
                        "ms_per_token": float(np.median(times) * 1e3 / TOKENS),
                        **shares,
                    }
                )
    m = models[0]
    finish("lm_chain", rows, a, n=a.n, threads=a.threads, engine=m.engine, bundle=m.name, artifact=m.artifact)


if __name__ == "__main__":
    main()
