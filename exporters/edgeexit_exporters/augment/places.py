"""Places for early exits in a trained network: tensors that everything later is computed from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import ModelError
from edgeexit_exporters.augment.looks import LENGTH, Look, looks
from edgeexit_exporters.augment.separators import Paths
from edgeexit_exporters.onnx import graph
from edgeexit_exporters.onnx.measure import NodeCost
from edgeexit_exporters.stages import GraphView

Arrays = Mapping[str, NDArray[Any]]
Cut = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Tensors that an early exit can read: all that the output learns of the inputs passes through them."""

    tensors: tuple[str, ...]
    """One, or a small cut of several that run side by side, in the order they are computed."""
    kinds: tuple[str, ...]
    """Per tensor: "picture" (b, c, h, w), "signal" (b, c, t), "tokens" (b, t, c), "steps" (t, b, c), as recurrent
    networks have them, or "vector" (b, c)."""
    channels: tuple[int, ...]
    """Per tensor: c."""
    macs: int | None
    """Multiply-accumulates that compute all of them for one input; None = not known."""
    bytes: int
    """Of these tensors for one input."""
    sizes: tuple[tuple[int, ...], ...] = ()
    """Per tensor: (h, w) or (t,) where they are fixed; empty where they are free, or there are none."""
    mask: str | None = None
    """The input or tensor (b, t) that says which positions of the sequences are real; None = all are."""

    @property
    def name(self) -> str:
        return "+".join(self.tensors)


def find_places(
    model: ir.Model,
    output: str,
    inputs: Arrays,
    costs: NodeCost,
    *,
    widest: int = 3,
    aside: Collection[str] = (),
    mask: str | None = None,
    refused: dict[str, str] | None = None,
) -> tuple[Place, ...]:
    """Find the places where an early exit can stand.

    A place separates the model's inputs from the output: every path passes through one of its tensors. Shapes and
    weights make no paths. It stands behind the first counted operation (`onnx_graph.COMPUTE`) and before the last
    one with weights. Places between the same counted operations cost the same, so one stands for them all: a single
    tensor rather than a cut; with positions left (h, w or t) rather than pooled or flattened to none, as a head can
    pool but not undo it; and of those the last, which has seen the activation.

    Args:
        model: as `onnx_graph.read` or `prepare` gives it.
        output: the tensor that holds the answer.
        inputs: one example input, axis 0 of size 1, by name.
        costs: of the model on this input.
        widest: tensors in the largest cut that is looked for; 1 = single tensors only. All single tensors are found;
            of the cuts, those that advance parallel branches together and that no part of would separate.
        aside: tensors or model inputs that an exit need not see, so that no path leads through them: an attention
            mask goes past every block but the last, and hides the others' places.
        mask: a tensor or model input (b, t), nonzero where a position is real. It is set aside, and noted at the
            places, whose sequences are all as long as it is: other sequences and pictures carry no exit.
        refused: receives tensors that separate and carry no exit, with the reason.

    Returns:
        Shallow to deep: by known multiply-accumulates, then in the graph's order.

    Raises:
        ModelError: `output`, `aside` or `mask` is not in the graph, nothing separates, what separates cannot carry an
            exit, or the model does not run on the example.
    """
    aside = aside if mask is None else (*aside, mask)
    view = graph.view(model.graph)
    _check_names(view, output, aside)
    nodes = list(model.graph)
    counted = [i for i, n in enumerate(nodes) if n.op_type in graph.COMPUTE or _unknown(n, costs)]
    free = {n for v in view.nodes if v.free for n in v.outputs}  # a weight that is stored small is unpacked first
    weighted = sum(1 << i for i in counted if _unknown(nodes[i], costs) or _reads_weights(nodes[i], free))
    paths = Paths(view, output, counted, aside)

    def between(cut: Cut) -> bool:
        return bool(paths.inputs.isdisjoint(cut) and paths.counted_above(cut) and paths.beyond(cut) & weighted)

    singles: list[Cut] = [(name,) for name in paths.single() if between((name,))]
    cuts = [cut for cut in paths.cuts(widest) if between(cut)]
    seen = looks(model, [n for cut in (*singles, *cuts) for n in cut], inputs, output, mask)
    if mask is not None:  # a head must not wait for what is computed behind its place
        cost = paths.counted_above([mask])
        seen.update((n, f"is there before mask {mask!r} is computed") for n in seen if cost & ~paths.counted_above([n]))
    if refused is not None:
        refused.update((n, why) for n, why in seen.items() if isinstance(why, str))
    chosen: dict[int, Cut] = {}
    for group in (_groups(paths, singles), _groups(paths, cuts)):
        for key, members in group.items():
            fit = [c for c in members if all(isinstance(seen[n], Look) for n in c)]
            if fit and key not in chosen:
                chosen[key] = _best(fit, seen)
    if not chosen:
        raise _nothing(paths, weighted, singles, seen, widest)
    order = {name: i for i, node in enumerate(view.nodes) for name in node.outputs}
    places = []
    for cut in chosen.values():
        above = paths.above(cut)
        needed = [n for i, n in enumerate(nodes) if above >> i & 1]
        known = sum(costs.macs.get(n.outputs[0].name or "", 0) or 0 for n in needed)
        found_looks = [look for n in cut if isinstance(look := seen[n], Look)]
        place = Place(
            cut,
            tuple(k.kind for k in found_looks),
            tuple(k.channels for k in found_looks),
            costs.total(needed),
            sum(k.bytes for k in found_looks),
            tuple(k.sizes for k in found_looks),
            mask if any(k.kind in LENGTH for k in found_looks) else None,
        )
        places.append((known, max(order[n] for n in cut), place))
    return tuple(place for *_, place in sorted(places, key=lambda p: p[:2]))


def _check_names(view: GraphView, output: str, aside: Collection[str]) -> None:
    produced = [n for node in view.nodes for n in node.outputs]
    if output in view.inputs:
        raise ModelError(f"output {output!r} is a model input; nothing is computed on the way to it")
    if output not in produced:
        near = [n for n in produced if n.lower() == output.lower() or output in n][:5] or produced[-5:]
        raise ModelError(f"output {output!r} is not a tensor of the graph; did you mean one of: {', '.join(near)}?")
    for name in aside:
        if name == output or name not in (*produced, *view.inputs):
            what = "is the output itself" if name == output else "is neither a tensor nor an input of the graph"
            raise ModelError(f"{name!r} cannot be set aside: it {what}")


def _unknown(node: ir.Node, costs: NodeCost) -> bool:
    """Whether the node's cost cannot be told: a custom operation, or control flow around counted ones."""
    name = node.outputs[0].name or ""
    return name in costs.macs and costs.macs[name] is None


def _reads_weights(node: ir.Node, free: Collection[str]) -> bool:
    return any(v.is_initializer() or v.name in free for v in node.inputs if v is not None)


def _groups(paths: Paths, cuts: Iterable[Cut]) -> dict[int, list[Cut]]:
    groups: dict[int, list[Cut]] = {}
    for cut in cuts:
        groups.setdefault(paths.counted_above(cut), []).append(cut)
    return groups


def _best(cuts: Sequence[Cut], seen: Mapping[str, Look | str]) -> Cut:
    """Of cuts that cost the same, shallow to deep: few tensors, then all with positions left, then the last."""

    def flat(cut: Cut) -> bool:
        return any(isinstance(look := seen[n], Look) and look.positions == 1 for n in cut)

    return min(reversed(cuts), key=lambda c: (len(c), flat(c)))


def _nothing(
    paths: Paths, weighted: int, singles: Sequence[Cut], seen: Mapping[str, Look | str], widest: int
) -> ModelError:
    """The error that says what blocks."""
    need = "an exit needs a place that everything later is computed from"
    if unfit := {n: look for n, look in seen.items() if isinstance(look, str)}:
        names = [n for (n,) in singles if n in unfit] or list(unfit)
        why = "; ".join(f"{n!r} {unfit[n]}" for n in names[:4]) + ("; ..." if len(names) > 4 else "")
        return ModelError(f"no tensor on the way to {paths.output!r} can carry an exit: {why}")
    crossing = [c for c in paths.live() if paths.counted_above(c) and paths.beyond(c) & weighted]
    if not crossing:
        return ModelError(
            f"{paths.output!r} has fewer than two counted operations with weights one behind the other, so nothing "
            f"lies between the first and the last; {need}"
        )
    # Inputs wait for late readers in many cuts; of equal ones, the middle says more than the first or last step.
    middle = len(crossing) // 2
    ranked = [(not paths.inputs.isdisjoint(c), len(c), abs(i - middle), c) for i, c in enumerate(crossing)]
    narrowest = min(ranked)[-1]
    a, b, *more = (f"{'input' if n in paths.inputs else 'tensor'} {n!r}" for n in narrowest)
    given = [n for n in narrowest if n in paths.inputs]
    why = f"the narrowest cut has {len(narrowest)} tensors"
    if given:
        why += f", among them input {given[0]!r}, which is no place for an exit"
    elif len(narrowest) <= widest:
        early = next((n for n in narrowest if not paths.counted_above([n])), narrowest[0])
        why += f", but {early!r} is there before anything is counted"
    else:
        why += f", and at most {widest} are looked for"
    extra = "; what an exit need not see, such as a mask, can be set aside" if len(paths.inputs) > 1 else ""
    also = f" (and {len(more)} more)" if more else ""
    return ModelError(
        f"nothing separates the inputs from {paths.output!r}: {a} and {b}{also} run side by side, {why}; {need}{extra}"
    )
