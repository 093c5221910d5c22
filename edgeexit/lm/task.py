"""The task language-model, as `edgeexit.bundle.tasks.TASKS` names it."""

from __future__ import annotations

import numpy as np

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.bundle.tasks import Verified
from edgeexit.errors import BundleError

MAX_PROOF_TOKENS = 1 << 16


def check(manifest: Manifest, at: str) -> None:
    """Check that stages and vocabulary are those of the exits.

    Raises:
        BundleError: they are not.
    """
    spec, count, classes = manifest.lm, len(manifest.exits), manifest.exits[-1].answer.shape[-1]
    assert spec is not None
    if len(spec.stages) != count:
        raise BundleError(f"{at}: a language model of {len(spec.stages)} stages with {count} exits")
    if spec.vocab != classes:
        raise BundleError(f"{at}: a language model of {spec.vocab} tokens answers with {classes!r:.40} classes")


def verify(bundle: Bundle, artifact: Artifact, threads: int) -> Verified:
    """Repeat an artifact's proof on this machine: whether tokens that go through together get the logits of one by one.

    Raises:
        BundleError: vectors without token ids.
    """
    from edgeexit.lm.loading import load_lm  # here, as opening a bundle runs nothing
    from edgeexit.lm.proof import prove

    assert artifact.vectors is not None
    stored, ids = artifact.proof, bundle.arrays(artifact.vectors).get("ids")
    if stored is None:
        return Verified(artifact.name, None, "nothing was proved of it that could be checked")
    if ids is None or ids.ndim != 2 or ids.dtype != np.int64 or ids.shape[1] < 2 or ids.size > MAX_PROOF_TOKENS:
        raise BundleError(f"{bundle.path}: {artifact.vectors.path} needs 'ids', int64 (sequences, positions)")
    lm = load_lm(bundle, artifact=artifact.name, threads=threads)
    lm.check_ids(ids.reshape(-1).tolist())
    proof = prove(lm, ids, stored.block, tolerance=stored.tolerance).proof
    passed = proof.verified or not stored.verified
    reason = "" if passed else (
        f"not lossless on this machine: {proof.flips} of {proof.tokens} tokens change when they go through together, "
        f"logits by up to {proof.max_difference:.2g}; use greedy decoding here"
    )  # fmt: skip
    return Verified(artifact.name, passed, reason, (proof.max_difference,), stored.tolerance, None, len(ids))
