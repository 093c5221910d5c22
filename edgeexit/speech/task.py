"""The task transcription, as `edgeexit.bundle.tasks.TASKS` names it."""

from __future__ import annotations

from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.bundle.tasks import RunScorer, Uncalibrated, last_exit
from edgeexit.errors import BundleError
from edgeexit.policy.policies import Threshold


def check(manifest: Manifest, at: str) -> None:
    """Check that there is one token per class.

    Raises:
        BundleError: there is not.
    """
    classes = manifest.exits[-1].answer.shape[-1]
    assert manifest.speech is not None
    if isinstance(classes, int) and len(manifest.speech.tokens) != classes:
        raise BundleError(f"{at}: {len(manifest.speech.tokens)} speech tokens for {classes} classes")


def first_agreement(manifest: Manifest, artifact: Artifact) -> Uncalibrated:
    """In a chain, answer at the first exit that writes what the one before it wrote; elsewhere at the last exit."""
    if not LAYOUTS[artifact.layout].stepwise:
        return last_exit(manifest, artifact)
    policy = Threshold((1.0,) * (len(manifest.exits) - 1), "agreement")
    return Uncalibrated(policy, "the first exit that agrees with the one before answers")


def scorer(manifest: Manifest) -> RunScorer:
    """A fresh memory of what exits wrote."""
    from edgeexit.speech.scorer import Scorer  # here, as opening a bundle needs no decoder

    assert manifest.speech is not None
    return Scorer(manifest.speech)
