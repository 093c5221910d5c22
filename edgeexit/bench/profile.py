"""Device profile: stage times of each artifact, measured once on this device and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgeexit.bench.bench import Timing
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import Artifact
from edgeexit.common.environment import environment
from edgeexit.common.files import read_json, write_atomic
from edgeexit.engine import backends
from edgeexit.engine.engine import Engine
from edgeexit.errors import DataError

SCHEMA = 2
_AGAIN = "run `edgeexit bench --save` again"


@dataclass(frozen=True)
class ArtifactTimes:
    """Times of one artifact, and what they were measured with."""

    seconds: tuple[float, ...]
    """Typical (median): per stage for a chain, to each exit for the other layouts."""
    ahead: tuple[float, ...]
    """Cautious (90th percentile), for looking ahead at deadlines."""
    n: int
    """Rounds that were measured."""
    engine: str
    """Name and version of the engine library."""
    files: Mapping[str, str]
    """Path of each file that the engine loads -> sha256 of its content."""


@dataclass(frozen=True)
class Profile:
    """Stage times of a bundle's artifacts on one device."""

    bundle: str
    environment: Mapping[str, Any]
    artifacts: Mapping[str, ArtifactTimes]

    @classmethod
    def of(cls, timings: Sequence[Timing], bundle: Bundle, threads: int) -> Profile:
        """The profile from a benchmark of a bundle.

        The time of a chain's stage is the difference between its exit and the exit before.
        """
        artifacts = {}
        for name in dict.fromkeys(t.artifact for t in timings):
            own = sorted((t for t in timings if t.artifact == name), key=lambda t: t.exit)
            p50, p90 = [t.p50 for t in own], [t.p90 for t in own]
            if LAYOUTS[own[0].layout].stepwise:
                p50, p90 = _steps(p50), _steps(p90)
            ahead = tuple(max(a, b) for a, b in zip(p50, p90, strict=True))
            artifact = bundle.manifest.artifact(name)
            version = backends.get(artifact.format).version()
            artifacts[name] = ArtifactTimes(tuple(p50), ahead, own[0].n, version, model_hashes(artifact))
        return cls(bundle.manifest.name, environment(threads=threads), artifacts)

    def write(self, path: Path | str) -> None:
        """Write the profile as JSON, whole or not at all."""
        write_atomic(path, json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, allow_nan=False) + "\n")


def model_hashes(artifact: Artifact) -> dict[str, str]:
    """sha256 by path of the files that an engine loads: models and their weights."""
    return {f.path: f.sha256 for f in (*artifact.models, *artifact.data)}


def use_profile(engine: Engine, path: Path | str) -> ArtifactTimes:
    """Use stage times from a file for deadlines, in place of those measured at load.

    Raises:
        DataError: not a profile; one of another bundle, device, number of threads, engine version or artifact content;
            or one without this artifact.
        PolicyError: times that are not positive numbers, one per exit.
    """
    document = read_json(Path(path), DataError)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema == 1:
        raise DataError(
            f"{path}: a profile of schema 1, which does not say which artifact content it was measured on; "
            f"expected schema {SCHEMA}: {_AGAIN}"
        )
    if schema != SCHEMA:
        raise DataError(f"{path}: not a profile of schema {SCHEMA}; `edgeexit bench --save` writes one")
    mine, there = environment(threads=engine.threads), document.get("environment")
    for what in ("device", "threads"):
        other = there.get(what) if isinstance(there, dict) else None
        if other != mine.get(what):
            raise DataError(f"{path}: measured on {what} {other!r:.60}, this is {mine.get(what)!r}: {_AGAIN}")
    name = engine.bundle.manifest.name
    if document.get("bundle") != name:
        raise DataError(f"{path}: a profile of {document.get('bundle')!r:.60}, not of {name!r}")
    times = _times(document.get("artifacts"), engine.artifact.name, path)
    _check_content(times, engine, path)
    engine.use_profile(times.seconds, times.ahead)
    return times


def _times(artifacts: Any, name: str, path: Path | str) -> ArtifactTimes:
    """The entry of one artifact."""
    entry = artifacts.get(name) if isinstance(artifacts, dict) else None
    if not isinstance(entry, dict) or not all(_numbers(entry.get(k)) for k in ("seconds", "ahead")):
        known = ", ".join(artifacts) if isinstance(artifacts, dict) else "none"
        raise DataError(f"{path}: no times of {name}; it has {known:.200}")
    n, version, files = (entry.get(k) for k in ("n", "engine", "files"))
    if not isinstance(n, int) or not isinstance(version, str) or not isinstance(files, dict):
        raise DataError(
            f"{path}: the times of {name} lack n, engine or files (sha256 by path), which say what they were measured "
            f"with: {_AGAIN}"
        )
    return ArtifactTimes(tuple(entry["seconds"]), tuple(entry["ahead"]), n, version, files)


def _check_content(times: ArtifactTimes, engine: Engine, path: Path | str) -> None:
    """Refuse times of other files, or of another version of the engine library."""
    name, expected = engine.artifact.name, model_hashes(engine.artifact)
    for file in dict.fromkeys((*expected, *times.files)):
        measured, here = times.files.get(file), expected.get(file)
        if measured != here:
            raise DataError(
                f"{path}: measured on another content of {name}: {file:.80} had sha256 {_short(measured)}, "
                f"in this bundle it has {_short(here)}: {_AGAIN}"
            )
    version = engine.backend.version()
    if times.engine != version:
        raise DataError(f"{path}: measured with {times.engine!r:.60}, this is {version!r}: {_AGAIN}")


def _short(digest: Any) -> str:
    return "none (no such file)" if digest is None else f"{digest!s:.12}..."


def _steps(times: Sequence[float]) -> list[float]:
    return [times[0], *(max(b - a, 1e-9) for a, b in pairwise(times))]


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
