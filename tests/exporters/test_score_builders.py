"""Every score that a graph can hold has what builds it."""

from __future__ import annotations

from edgeexit.policy.scores import ANSWER_SCORES, GRAPH_SCORES, SCORES
from edgeexit_exporters.layouts import score_nodes
from edgeexit_exporters.tflite import score_ops


def test_scores_in_graphs_have_builders() -> None:
    assert tuple(score_nodes.BUILDERS) == GRAPH_SCORES
    assert tuple(score_ops.BUILDERS) == tuple(n for n in ANSWER_SCORES if SCORES[n].in_graph)
