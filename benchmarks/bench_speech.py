"""Speech: latency and memory of early exits by the length of the audio, and time per chunk of a stream.

Targets: chain to the last exit at most 1.05x the single-exit encoder (the prefix of the last exit) at 5 s of audio;
memory does not grow with the audio (windows of 20 s); a chunk takes less time than it lasts, at every exit, on one
core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import edgeexit
import edgeexit.engine.stream
from benchmarks.common import finish, parser, ratios, time_together
from edgeexit.policy.policies import fixed_exit
from edgeexit.speech.features import log_mel
from edgeexit.speech.offline import Transcriber

_PEAK = """
import resource, sys, numpy as np, edgeexit
from edgeexit.speech.offline import Transcriber
engine = edgeexit.load(sys.argv[1], artifact="chain", exit=-1, warmup=0)
seconds, window = float(sys.argv[2]), float(sys.argv[3])
rate = engine.bundle.manifest.speech.features.sample_rate
samples = np.random.default_rng(0).standard_normal(int(seconds * rate)).astype(np.float32) * 0.1
Transcriber(engine, longest_s=window).samples(samples)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--bundle", type=Path, help="bundle for whole utterances [default: a small Conformer, exported now]")
    p.add_argument("--stream", type=Path, help="bundle for streams [default: likewise]")
    p.add_argument("--n", type=int, default=200, help="rounds of every case [default: 200]")
    p.add_argument("--seconds", type=float, nargs="+", default=[1.0, 5.0, 15.0], help="lengths of the audio")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{n}.edgeexit") for n in ("whole", "stream")]
        if a.bundle is None:
            edgeexit.export("edgeexit_models.speech:asr_digits", paths[0], layouts=("chain", "prefix"))
        if a.stream is None:
            edgeexit.export("edgeexit_models.speech:asr_digits_streaming", paths[1], layouts=("chain",))
        measure(a.bundle or paths[0], a.stream or paths[1], a)


def measure(whole: Path, stream: Path, a: Any) -> None:
    engines = {layout: edgeexit.load(whole, artifact=layout, exit=-1, warmup=0) for layout in ("chain", "prefix")}
    rows = []
    for seconds in a.seconds:
        rows += _lengths(engines, seconds, a.n)
    for seconds, window in ((5.0, 20.0), (60.0, 20.0), (600.0, 20.0), (60.0, 60.0), (120.0, 120.0)):
        how = "at once" if seconds <= window else f"in windows of {window:g} s"
        rows.append({"case": f"peak memory, {seconds:g} s of audio {how}", "mib": _peak(whole, seconds, window)})
    rows += _chunks(edgeexit.load(stream, artifact="chain", warmup=0), a.n)
    chain = engines["chain"]
    finish("speech", rows, a, n=a.n, threads=1, engine=chain.backend.version(), bundle=chain.bundle.manifest.name)


def _lengths(engines: dict[str, edgeexit.Engine], seconds: float, n: int) -> list[dict[str, Any]]:
    """Chain and prefix to every exit, features and greedy decoding, on one utterance, interleaved."""
    spec = engines["chain"].bundle.manifest.speech
    assert spec is not None
    samples = _sound(seconds, spec.features.sample_rate)
    transcriber = Transcriber(engines["chain"])
    x = list(transcriber.inputs(samples).values())
    cases: dict[str, Any] = {"features": lambda: log_mel(samples, spec.features)}
    last = engines["chain"].exits - 1
    for layout, engine in engines.items():
        for k in range(last + 1):
            policy = fixed_exit(k, last + 1)
            cases[f"{layout} {k}"] = lambda d=engine.driver, q=policy: d.run(x, q, None)
    cases["chain, agreement"] = lambda d=engines["chain"].driver: d.run(x, _agreeing(last), None)
    spent = time_together(cases, n)
    single = spent[f"prefix {last}"]
    return [
        {
            "case": f"{seconds:g} s: {name}",
            "ms": float(np.median(s) * 1e3),
            "real_time_factor": float(np.median(s) / seconds),
            **{f"of_single_{k}": v for k, v in ratios(s, single).items()},
        }
        for name, s in spent.items()
    ]


def _agreeing(last: int) -> edgeexit.Threshold:
    """Never satisfied: what asking for agreement costs at every exit on the way."""
    return edgeexit.Threshold((2.0,) * last, "agreement")


def _chunks(engine: edgeexit.Engine, n: int) -> list[dict[str, Any]]:
    manifest = engine.bundle.manifest
    assert manifest.speech is not None
    frames = int(manifest.inputs[0].shape[1])
    rng = np.random.default_rng(0)
    x = {"x": rng.standard_normal((1, frames, manifest.speech.features.bins)).astype(np.float32)}
    x["x_lens"] = np.array([frames])
    seconds = frames * manifest.speech.features.shift_ms / 1000

    def step(stream: edgeexit.engine.stream.Stream, k: int) -> None:
        if stream.steps >= 30:  # utterances of 19 s: chunks that left early wait, and none catches up
            stream.reset()
        stream.step(x, exit=k)

    streams = [engine.stream() for _ in range(engine.exits)]
    spent = time_together({str(k): lambda s=s, k=k: step(s, k) for k, s in enumerate(streams)}, n)
    return [
        {
            "case": f"chunk of {seconds:g} s, exit {k}",
            "ms": float(np.median(s) * 1e3),
            "p99_ms": float(np.quantile(s, 0.99) * 1e3),
            "real_time_factor": float(np.median(s) / seconds),
        }
        for k, s in spent.items()
    ]


def _peak(bundle: Path, seconds: float, window: float) -> float:
    """MiB of a process of its own that transcribes so many seconds."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _PEAK, str(bundle), str(seconds), str(window)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return int(done.stdout) / 1024


def _sound(seconds: float, rate: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (np.random.default_rng(0).standard_normal(int(seconds * rate)) * 0.1).astype(np.float32)


if __name__ == "__main__":
    main()
