"""Tensors that every path from a network's inputs to its output passes through, in any graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from edgeexit.errors import ModelError
from edgeexit_exporters.stages import GraphView

_ROOT = ""
"""Feeds all model inputs; no tensor has an empty name."""


class Paths:
    """The tensors that carry the inputs to one output.

    Weights and free nodes carry nothing: a path is what the answer can learn of an input's numbers.
    """

    def __init__(self, graph: GraphView, output: str, counted: Collection[int], aside: Collection[str] = ()) -> None:
        """
        Args:
            graph: the network.
            output: the tensor that the paths lead to.
            counted: indices of the nodes whose cost counts; depth is measured in them.
            aside: tensors or inputs whose paths do not count.

        Raises:
            ModelError: no path leads to the output.
        """
        self.graph, self.output, self.inputs = graph, output, frozenset(graph.inputs)
        self._above = _above(graph)
        self._counted = sum(1 << i for i in counted)
        self._needed = self._above[output]
        reached = set(graph.inputs) - set(aside)
        reads: dict[int, tuple[str, ...]] = {}  # node -> the tensors through which paths enter it
        for i, node in enumerate(graph.nodes):
            if node.free or not self._needed >> i & 1:
                continue
            if entering := tuple(n for n in node.inputs if n in reached):
                reads[i] = entering
                reached.update(n for n in node.outputs if n not in aside)
        wanted = {output}
        self._reads: dict[int, tuple[str, ...]] = {}
        for i in reversed(reads):
            if wanted.intersection(graph.nodes[i].outputs):
                self._reads[i] = reads[i]
                wanted.update(reads[i])
        self._reads = dict(sorted(self._reads.items()))
        if not self._reads:
            raise ModelError(f"output {output!r} does not depend on any model input ({', '.join(graph.inputs)})")
        self.tensors = wanted & reached
        self._before = {n: reads[i] for i in self._reads for n in self._made(i)}
        self._before.update((n, (_ROOT,)) for n in graph.inputs if n in self.tensors)
        self._position = {n: k for k, n in enumerate((*graph.inputs, *(n for i in self._reads for n in self._made(i))))}
        self._dominator = self._dominators()

    def above(self, tensors: Collection[str]) -> int:
        """All nodes that these tensors need, as a bit mask over node indices."""
        mask = 0
        for name in tensors:
            mask |= self._above[name]
        return mask

    def counted_above(self, tensors: Collection[str]) -> int:
        """The counted ones of them: places that agree in this cost the same."""
        return self.above(tensors) & self._counted

    def beyond(self, tensors: Collection[str]) -> int:
        """The nodes that the output needs besides, as a bit mask."""
        return self._needed & ~self.above(tensors)

    def single(self) -> tuple[str, ...]:
        """Every tensor that separates the inputs from the output by itself, shallow to deep; not the output."""
        names = []
        name = self._dominator[self.output]
        while name != _ROOT:
            names.append(name)
            name = self._dominator[name]
        return tuple(reversed(names))

    def live(self) -> Iterator[tuple[str, ...]]:
        """What is computed and still to be read after each node: cuts that separate, minimal or not.

        Nodes are taken by the share of counted steps behind them, not in the graph's order: a graph may write one
        branch to its end before another begins, and a cut should meet both halfway.
        """
        left: dict[str, int] = {}
        for names in self._reads.values():
            for name in names:
                left[name] = left.get(name, 0) + 1
        alive = {n: None for n in self.graph.inputs if n in self.tensors}
        for i in self._levelled():
            for name in self._reads[i]:
                left[name] -= 1
                if not left[name]:
                    del alive[name]
            alive.update(dict.fromkeys(self._made(i)))
            if self.output in alive:
                return  # nothing but the output is left to be read
            yield tuple(alive)

    def cuts(self, widest: int) -> list[tuple[str, ...]]:
        """Sets of 2 to `widest` tensors that separate together and of which no subset does.

        What is left of the live sets without the tensors that others of the set lead to. Not all there are: branches
        of equal depth advance together.
        """
        unique: dict[tuple[str, ...], None] = {}  # in the graph's order, however the live set came about
        for names in self.live():
            cut = tuple(n for n in names if not self._dominated(n, names))
            if not 2 <= len(cut) <= 2 * widest:
                continue  # wider ones could shrink below, too, but hardly ever do
            for name in reversed(cut):  # the latest first: what leads to others is older than they are
                others = tuple(n for n in cut if n != name)
                cut = cut if self._around(name, others) else others
            if 2 <= len(cut) <= widest:
                unique[tuple(sorted(cut, key=self._position.__getitem__))] = None
        return list(unique)

    def _made(self, i: int) -> list[str]:
        """The outputs of a node that lie on paths."""
        return [n for n in self.graph.nodes[i].outputs if n in self.tensors]

    def _dominated(self, name: str, others: Collection[str]) -> bool:
        above = self._dominator[name]
        while above != _ROOT and above not in others:
            above = self._dominator[above]
        return above != _ROOT

    def _around(self, name: str, others: Collection[str]) -> bool:
        """Whether a path leads to a tensor around the others."""
        todo, seen = [name], {name}
        while todo:
            for before in self._before[todo.pop()]:
                if before == _ROOT:
                    return True
                if before not in seen and before not in others:
                    seen.add(before)
                    todo.append(before)
        return False

    def _dominators(self) -> dict[str, str]:
        """The nearest tensor that all paths to a tensor pass; one pass is enough, as nothing loops."""
        dominators: dict[str, str] = {}
        depth = {_ROOT: 0}
        for name in self._position:
            if name not in self._before:
                continue  # an input that leads nowhere
            first, *more = self._before[name]
            for other in more:
                while first != other:
                    if depth[first] >= depth[other]:
                        first = dominators[first]
                    else:
                        other = dominators[other]
            dominators[name], depth[name] = first, depth[first] + 1
        return dominators

    def _levelled(self) -> list[int]:
        """The nodes in an order that can be executed, in which parallel branches advance together."""
        up: dict[str, int] = dict.fromkeys(self.tensors, 0)
        down = dict(up)
        step = {i: self._counted >> i & 1 for i in self._reads}
        for i, names in self._reads.items():
            level = max(up[n] for n in names) + step[i]
            up.update(dict.fromkeys(self._made(i), level))
        for i, names in reversed(self._reads.items()):
            level = max(down[n] for n in self._made(i)) + step[i]
            down.update((n, max(down[n], level)) for n in names)

        def share(i: int) -> float:  # never falls along an edge: `up` does not fall there, `down` does not grow
            produced = self._made(i)
            behind, ahead = up[produced[0]], max(down[n] for n in produced)
            return behind / (behind + ahead) if behind else 0.0

        return sorted(self._reads, key=lambda i: (share(i), i))


def _above(graph: GraphView) -> dict[str, int]:
    """Per tensor, the nodes it needs, its own included, as a bit mask: sets of thousands of nodes would not fit."""
    masks = dict.fromkeys(graph.inputs, 0)
    for i, node in enumerate(graph.nodes):
        mask = 1 << i
        for name in node.inputs:
            mask |= masks[name]
        masks.update(dict.fromkeys(node.outputs, mask))
    return masks
