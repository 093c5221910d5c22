"""Policies by kind, and reading them from tables: a policy is a small table of numbers, never code.

Every policy has one method, `stop`, that works on numbers (one input) and on arrays (a batch, a replay)
alike, so running and replaying cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from edgeexit.common.plugins import plugin
from edgeexit.errors import PolicyError
from edgeexit.policy.base import Policy
from edgeexit.policy.patience import Patience
from edgeexit.policy.qexit import QExit
from edgeexit.policy.threshold import Threshold, fixed_exit
from edgeexit.policy.window import Window

__all__ = ["POLICIES", "Patience", "Policy", "QExit", "Threshold", "Window", "fixed_exit", "policy_from_dict"]

GROUP = "edgeexit.policies"


class _Kind(Protocol):
    def from_dict(self, table: Mapping[str, Any]) -> Policy:
        """Read what `Policy.to_dict` wrote."""


POLICIES: dict[str, _Kind] = {"threshold": Threshold, "patience": Patience, "window": Window, "qexit": QExit}
_MEMBERS = tuple(dict.fromkeys((*Policy.__annotations__, *(n for n in vars(Policy) if not n.startswith("_")))))


def policy_from_dict(table: Any) -> Policy:
    """Read what `Policy.to_dict` wrote.

    Raises:
        PolicyError: not such a table; or the kind is another distribution's, which cannot be loaded or gives no policy.
    """
    kind = table.get("kind") if isinstance(table, Mapping) else table
    if not isinstance(kind, str) or not isinstance(table, Mapping):
        raise PolicyError(f"unknown policy kind {kind!r:.60}; known: {', '.join(POLICIES)}")
    own = POLICIES.get(kind)
    read = own if own is not None else plugin(GROUP, kind, PolicyError)
    if read is None:
        raise PolicyError(f"unknown policy kind {kind!r:.60}; known: {', '.join(POLICIES)}")
    try:
        policy: Policy = read.from_dict(table)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise PolicyError(f"policy table of kind {kind!r} is damaged: {e}") from e
    except Exception as e:
        if own is not None or isinstance(e, PolicyError):
            raise
        raise PolicyError(f"policy kind {kind!r}, of {GROUP}, failed to read its table: {type(e).__name__}: {e}") from e
    if own is None and (lacking := [m for m in _MEMBERS if not hasattr(policy, m)]):
        raise PolicyError(f"policy kind {kind!r}, of {GROUP}, gives a {type(policy).__name__} without {lacking[0]!r}")
    return policy
