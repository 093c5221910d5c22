"""Three-way merge of manifests: the changes of one process and those of others meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.file_spec import FileSpec
from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.errors import BundleError

T = TypeVar("T")


def normal(manifest: Manifest) -> Manifest:
    """The manifest as it would be read from its file, so that equal ones compare equal."""
    return from_json(json.loads(json.dumps(to_json(manifest))))


def same_network(a: Artifact, b: Artifact) -> bool:
    """Whether calibration on one artifact is valid for the other: all but the stored scores is equal."""
    return replace(a, calibration=None) == replace(b, calibration=None)


def check_unchanged(before: Manifest, now: Manifest, artifact: str, shown: object) -> None:
    """Refuse to store a calibration whose artifact has changed since.

    Args:
        before: as it was calibrated on.
        now: as it is in the bundle.
        artifact: its name.
        shown: the bundle, for the message.

    Raises:
        BundleError: its files or temperatures changed, or it is gone.
    """
    old = normal(before).artifact(artifact)
    if not any(a.name == artifact and same_network(a, old) for a in now.artifacts):
        raise BundleError(
            f"{shown}: {artifact} was changed by another process (its files or temperatures are others now), so that "
            "what was calibrated before does not hold; nothing was written: calibrate again"
        )


def merged(
    base: Manifest, mine: Manifest, now: Manifest, artifact_of: Callable[[FileSpec], str | None], shown: object
) -> Manifest:
    """`now` with the changes that lead from `base` to `mine`.

    Args:
        base: what the change began with.
        mine: what it leads to.
        now: what the bundle holds, as read from its file.
        artifact_of: artifact of the operating point in a file; asked for those that were added.
        shown: the bundle, for messages.

    Raises:
        BundleError: both changed the same part, or one changed an artifact and the other calibrated on it.
    """
    base, mine = normal(base), normal(mine)

    def conflict(what: str) -> BundleError:
        return BundleError(
            f"{shown}: {what} was changed by another process meanwhile; nothing was written: open it and try again"
        )

    def pick(before: T, ours: T, theirs: T, what: str) -> T:
        if theirs in (before, ours):
            return ours
        if ours != before:
            raise conflict(what)
        return theirs

    single = [f.name for f in fields(Manifest) if f.name not in ("artifacts", "policies", "default_policy")]
    values: dict[str, Any] = {n: pick(getattr(base, n), getattr(mine, n), getattr(now, n), n) for n in single}
    artifacts = _by_name(base, mine, now, lambda m: {a.name: a for a in m.artifacts}, "artifact", pick)
    policies = _by_name(base, mine, now, lambda m: m.policies, "operating point", pick)
    for added, other in ((mine, now), (now, mine)):
        for name, spec in added.policies.items():
            if spec == base.policies.get(name):
                continue
            artifact = artifact_of(spec)
            before, there = (next((a for a in m.artifacts if a.name == artifact), None) for m in (base, other))
            if before is not None and (there is None or not same_network(before, there)):
                raise conflict(f"artifact {artifact}, which operating point {name} belongs to,")
    default = mine.default_policy if now.default_policy == base.default_policy else now.default_policy
    return replace(
        now, **values, artifacts=tuple(artifacts.values()), policies=policies,
        default_policy=default if default in policies else None,
    )  # fmt: skip


def _by_name(
    base: Manifest,
    mine: Manifest,
    now: Manifest,
    parts: Callable[[Manifest], Mapping[str, T]],
    what: str,
    pick: Callable[[T | None, T | None, T | None, str], T | None],
) -> dict[str, T]:
    """Each named part merged for itself, in the order in which they were stored."""
    before, ours, theirs = parts(base), parts(mine), parts(now)
    merged_parts = {n: pick(before.get(n), ours.get(n), theirs.get(n), f"{what} {n}") for n in (*theirs, *ours)}
    return {n: part for n, part in merged_parts.items() if part is not None}
