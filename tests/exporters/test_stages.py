"""Stages: found from the graph, disjoint, complete, in order; and errors that say what to do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import ModelError
from edgeexit_exporters.stages import GraphView, Stage, ViewNode, stages


def chain_of(*names: str) -> GraphView:
    return GraphView(("x",), tuple(ViewNode((a,), (b,)) for a, b in zip(("x", *names), names, strict=False)))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[GraphView, list[str]]:
    """Random DAGs whose exits each have a node of their own."""
    known = ["x", "z"]
    nodes = []
    for i in range(draw(st.integers(1, 14))):
        inputs = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
        outputs = tuple(f"t{i}_{j}" for j in range(draw(st.integers(1, 2))))
        nodes.append(ViewNode(tuple(inputs), outputs, free=draw(st.booleans()) and draw(st.booleans())))
        known += outputs
    exits = []
    for k in range(draw(st.integers(1, 4))):
        nodes.append(ViewNode((draw(st.sampled_from(known)),), (f"y{k}",)))
        exits.append(f"y{k}")
        known.append(f"y{k}")
    return GraphView(("x", "z"), tuple(nodes)), exits


def ancestors(graph: GraphView, name: str) -> set[int]:
    found = {i for i, n in enumerate(graph.nodes) if name in n.outputs}
    for i in list(found):
        for source in graph.nodes[i].inputs:
            found |= ancestors(graph, source)
    return found


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_stages_are_disjoint_complete_and_fed(case: tuple[GraphView, list[str]]) -> None:
    graph, exits = case
    parts = stages(graph, exits)
    paid = [{i for i in p.nodes if not graph.nodes[i].free} for p in parts]
    assert sum(map(len, paid)) == len(set().union(*paid)), "a paid node stands in two stages"
    needed = set().union(*(ancestors(graph, e) for e in exits))
    assert set().union(*paid) == {i for i in needed if not graph.nodes[i].free}
    available = set(graph.inputs)
    for k, part in enumerate(parts):
        assert set(part.inputs) <= available, "a stage reads what nothing before it makes"
        made = set(part.inputs)
        for i in part.nodes:  # in an order that can be executed
            assert set(graph.nodes[i].inputs) <= made
            made |= set(graph.nodes[i].outputs)
        assert part.exit in made
        assert paid[k] <= ancestors(graph, exits[k]), "a stage computes what its exit does not need"
        available |= set(part.outputs)


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_cuts_are_exactly_what_later_stages_read(case: tuple[GraphView, list[str]]) -> None:
    graph, exits = case
    parts = stages(graph, exits)
    for k, part in enumerate(parts):
        later = {n for p in parts[k + 1 :] for n in p.inputs}
        own = {n for i in part.nodes for n in graph.nodes[i].outputs if not graph.nodes[i].free}
        assert set(part.cuts) == own & later


def test_a_skip_over_a_cut_makes_the_cut_wider() -> None:
    nodes = (
        ViewNode(("x",), ("a",)),
        ViewNode(("a",), ("b",)),
        ViewNode(("b",), ("y0",)),
        ViewNode(("b",), ("c",)),
        ViewNode(("c", "a"), ("y1",)),
    )
    first, second = stages(GraphView(("x",), nodes), ["y0", "y1"])
    assert set(first.cuts) == {"a", "b"}
    assert second == Stage((3, 4), ("b", "a"), "y1", ())


def test_free_nodes_are_repeated_not_carried() -> None:
    nodes = (
        ViewNode(("x",), ("shape",), free=True),
        ViewNode(("x", "shape"), ("y0",)),
        ViewNode(("y0", "shape"), ("y1",)),
    )
    first, second = stages(GraphView(("x",), nodes), ["y0", "y1"])
    assert first.cuts == ("y0",)
    assert second.nodes == (0, 2)
    assert second.inputs == ("x", "y0")


@pytest.mark.parametrize(
    ("exits", "words"),
    [
        (["y0", "nope"], "'nope' is not a tensor of the graph"),
        (["x", "b"], "is a model input"),
        (["b", "a"], "shallow to deep, e.g. --exits a,b"),
        (["a", "a"], "named twice"),
        ([], "no exits were named"),
    ],
)
def test_errors_say_what_to_do(exits: list[str], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        stages(GraphView(("x",), (*chain_of("a", "b").nodes, ViewNode(("b",), ("y0",)))), exits)


def test_an_exit_that_no_input_reaches_is_refused() -> None:
    graph = GraphView(("x",), (ViewNode((), ("c",)), ViewNode(("c",), ("y0",)), ViewNode(("x",), ("y1",))))
    with pytest.raises(ModelError, match="'y0' does not depend on any model input"):
        stages(graph, ["y0", "y1"])
