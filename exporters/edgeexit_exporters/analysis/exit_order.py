"""Order of exits: compares what each exit costs alone with the place it was listed at, before any file is made."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edgeexit.bundle.manifest import ExitSpec
from edgeexit.errors import ModelError
from edgeexit_exporters.stages import GraphView, Stage

CHEAPER = 0.98
"""An exit is listed too late where it costs less than this share of one before it, each alone."""
ALL = 0.999
"""Share of the last exit's cost from which leaving early saves nothing."""


def check_order(
    graph: GraphView, parts: Sequence[Stage], exits: Sequence[ExitSpec], ordered: bool, joins: Collection[str] = ()
) -> list[str]:
    """Whether exits stand from shallow to deep, and whether the first saves anything.

    Args:
        graph, parts, exits: of the network; nothing is said where multiply-accumulates are unknown or none.
        ordered: the user named the exits in this order: what contradicts it is noted. Else, where an exit is both
            cheaper and shallower than one before it, the order is refused.
        joins: tensors that join others along an axis.

    Returns:
        Sentences about what looks wrong and was not refused.

    Raises:
        ModelError: a wrong order that nobody asked for; or a first exit that costs as much as the last, where nobody
            asked for that one, or where all exits are parts of one joined tensor.
    """
    if len(exits) < 2:
        return []
    depth = _depths(graph)
    reach = [max(depth.get(t, 0) for t in part.answers) for part in parts]
    alone = [e.prefix_macs for e in exits]
    notes = []
    for k in range(1, len(exits)):
        for i in range(k):
            a, b = alone[i], alone[k]
            if a is None or b is None or not a or b >= CHEAPER * a:
                continue
            right = ",".join(exits[j].name for j in sorted(range(len(exits)), key=lambda j: (alone[j] or 0, reach[j])))
            text = (
                f"exit {exits[k].name!r} is listed after exit {exits[i].name!r} and costs less than it, each alone "
                f"({b:,} and {a:,} multiply-accumulates)"
            )
            if reach[k] < reach[i] and not ordered:
                raise ModelError(
                    f"{text}: an exit that is listed later has to be deeper. Name them from shallow to deep: "
                    f"--exits {right} (or --exits {','.join(e.name for e in exits)} to keep this order)"
                )
            notes.append(f"{text}; from cheap to dear they are {right}")
    costs = [e.macs for e in exits]
    first, last = costs[0], costs[-1]
    if first is not None and last and first >= ALL * last:
        shared = _shared(graph, parts, joins)
        text = _nothing_saved(exits, first / last, shared)
        if shared is not None or not ordered:
            raise ModelError(text)
        notes.append(text)
    for k in range(1, len(exits)):
        before, here = costs[k - 1], costs[k]
        if before is not None and here is not None and last and here - before < (1 - ALL) * last:
            notes.append(
                f"exit {exits[k].name!r} costs next to nothing beyond exit {exits[k - 1].name!r} "
                f"({here - before:,} of {last:,} multiply-accumulates): leaving at the one before it saves nothing"
            )
    return list(dict.fromkeys(notes))


def _nothing_saved(exits: Sequence[ExitSpec], share: float, shared: tuple[str, tuple[str, ...]] | None) -> str:
    """What to say of a first exit that needs everything."""
    text = (
        f"exit {exits[0].name!r}, the first, costs {100 * share:.4g} % of the last, {exits[-1].name!r}, so leaving "
        "early saves nothing"
    )
    if shared is None:
        names = ",".join(e.name for e in exits)
        return f"{text}: name others with --exits (--exits {names} takes these all the same)"
    tensor, joined = shared
    return (
        f"{text}: all exits go through {tensor!r}, which joins {len(joined)} tensors ({', '.join(joined[:4])}) and "
        "waits for all of them; give every exit a tensor of its own (no torch.stack or cat over exits), or name "
        "others with --exits"
    )


def _shared(graph: GraphView, parts: Sequence[Stage], joins: Collection[str]) -> tuple[str, tuple[str, ...]] | None:
    """The last joined tensor that all exits are computed from, and what it joins; None = there is none."""
    makers = {out: node for node in graph.nodes for out in node.outputs}
    common: set[str] | None = None
    for part in parts:
        above: set[str] = set()
        todo = [part.exit]
        while todo:
            name = todo.pop()
            if name not in above and name in makers:
                above.add(name)
                todo.extend(makers[name].inputs)
        common = above if common is None else common & above
    shared = [n for node in graph.nodes for n in node.outputs if n in joins and n in (common or ())]
    return (shared[-1], makers[shared[-1]].inputs) if shared else None


def _depths(graph: GraphView) -> dict[str, int]:
    """Tensor -> operations on the longest way to it; free ones are none."""
    depths: dict[str, int] = dict.fromkeys(graph.inputs, 0)
    for node in graph.nodes:
        here = max((depths.get(n, 0) for n in node.inputs), default=0) + (not node.free)
        depths.update(dict.fromkeys(node.outputs, here))
    return depths
