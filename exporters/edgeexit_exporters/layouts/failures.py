"""Failures of layouts: a default one is left out with its reason, one that was named is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.errors import BundleError, EdgeExitError, ModelError

_NOT_WRITTEN = "; no bundle was written"


@dataclass
class LayoutFailures:
    """Runs what makes each layout, and collects what went wrong.

    Args:
        named: the user named the layouts, so that a failure is an error; else it leaves one out of the default set.
    """

    named: bool = True
    reasons: dict[str, EdgeExitError] = field(default_factory=dict)
    """Artifact, such as onnx-fused-fp32 -> why it was left out."""
    done: list[str] = field(default_factory=list)
    """Layouts that were written; without one that leaves early a bundle is not worth writing."""

    @contextmanager
    def attempt(self, layout: str, artifact: str, needed: bool = False) -> Iterator[None]:
        """Make one layout inside this context.

        Args:
            layout: its name.
            artifact: its name in the bundle.
            needed: others cannot be made without it.

        Raises:
            ModelError, BundleError: it failed, and is needed or was asked for by name.
        """
        try:
            yield
        except (ModelError, BundleError) as e:  # BundleError: an engine does not load it
            if self.named or needed:
                raise
            self.reasons[artifact] = e
        else:
            self.done.append(layout)

    def check(self, progress: Callable[[str], None]) -> dict[str, str]:
        """Tell the user what was left out.

        Args:
            progress: called with one sentence for each.

        Returns:
            Artifact -> why it is left out.

        Raises:
            ModelError, BundleError: the first failure, where no layout that leaves early was made.
        """
        if self.reasons and not any(LAYOUTS[w].stops_early for w in self.done):
            raise next(iter(self.reasons.values()))
        reasons = {artifact: str(e).removesuffix(_NOT_WRITTEN) for artifact, e in self.reasons.items()}
        for artifact, why in reasons.items():
            progress(f"warning: no {artifact} in the bundle, the other layouts are: {why}")
        return reasons
