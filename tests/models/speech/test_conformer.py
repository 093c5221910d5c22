"""Early-exit Conformers: shapes, sizes, padding, lengths, and what an exported file answers at other lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models.speech.config import ConformerConfig
from edgeexit_models.speech.conformer import EarlyExitConformer, conformer_paper, single_exit
from edgeexit_models.speech.digits import asr_digits
from edgeexit_models.speech.splitformer import Splitformer, splitformer_paper

WHOLE = ConformerConfig(bins=8, vocab=5, layers=3, width=16, heads=2, feed_forward=24, kernel=5, exits=(1, 3))
CHUNKED = replace(WHOLE, chunk=4, left=6)
NETS = {
    "whole": lambda: EarlyExitConformer(WHOLE),
    "whole, batch norm": lambda: EarlyExitConformer(replace(WHOLE, norm="batch")),
    "chunked": lambda: EarlyExitConformer(CHUNKED),
    "chunked, batch norm": lambda: EarlyExitConformer(replace(CHUNKED, norm="batch")),
    "splitformer": lambda: Splitformer(replace(WHOLE, exits=(1, 2, 3))),
}


def net(name: str) -> EarlyExitConformer:
    """With normalisation and batch statistics that are not the neutral ones."""
    torch.manual_seed(0)
    made = NETS[name]()
    made.set_normalisation(torch.linspace(-3, 3, 8), torch.linspace(0.5, 2, 8))
    for part in made.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return made.eval()


def frames(config: ConformerConfig, time: int) -> int:
    return time // 4 if config.chunk is not None else max(time - 3, 0) // 4


def test_the_papers_sizes_have_the_papers_parameters() -> None:
    count = [sum(p.numel() for p in made.parameters()) for made in (conformer_paper(), splitformer_paper())]
    assert count == [31_536_128, 36_683_264]


@pytest.mark.parametrize("name", NETS)
def test_every_exit_gives_log_probabilities_and_lengths(name: str) -> None:
    model = net(name)
    lens = torch.tensor([37, 20, 3])
    exits = model(torch.randn(3, 37, 8), lens)
    assert len(exits) == len(model.config.exits)
    for e in exits:
        assert e["output"].shape == (3, frames(model.config, 37), 5)
        torch.testing.assert_close(e["output"].exp().sum(-1), torch.ones(3, frames(model.config, 37)))
        assert e["lengths"].dtype == torch.int64
        assert e["lengths"].tolist() == [frames(model.config, int(n)) for n in lens]


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
def test_padding_does_not_change_an_answer(name: str) -> None:
    model = net(name)
    torch.manual_seed(1)
    for time in (7, 8, 11, 30, 41, 64):
        x = torch.randn(1, time, 8)
        alone = model(x, torch.tensor([time]))
        padded = torch.full((2, 83, 8), 1e3) * torch.randn(2, 83, 8)
        padded[1, :time] = x[0]
        together = model(padded, torch.tensor([83, time]))
        for a, b in zip(alone, together, strict=True):
            n = int(b["lengths"][1])
            assert n == a["output"].shape[1] == int(a["lengths"][0])
            torch.testing.assert_close(b["output"][1, :n], a["output"][0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_empty_utterance_in_a_batch_stays_finite() -> None:
    for name in NETS:
        e = net(name)(torch.randn(2, 30, 8), torch.tensor([30, 0]))[-1]
        assert int(e["lengths"][1]) == 0
        assert bool(e["output"].isfinite().all())


@torch.no_grad()
def test_a_chunk_hears_nothing_after_it_and_nothing_long_before() -> None:
    model = net("chunked")
    x, lens = torch.randn(1, 96, 8), torch.tensor([96])
    before = model(x, lens)
    later = x.clone()
    later[:, 64:] += 1  # from frame 16 = chunk 4
    for a, b in zip(before, model(later, lens), strict=True):
        torch.testing.assert_close(a["output"][:, :16], b["output"][:, :16], rtol=0, atol=1e-6)
        assert float((a["output"][:, 16:] - b["output"][:, 16:]).abs().max()) > 1e-3
    one = EarlyExitConformer(replace(CHUNKED, layers=1, exits=(1,), left=2)).eval()
    early = x.clone()
    early[:, :16] += 1  # frames 0 to 3; frame 4 still sees three of the features
    a, b = (one(v, lens)[0]["output"] for v in (x, early))
    # one layer: the convolution looks 4 frames back, attention 2 before the chunk: all of it is past from frame 16 on
    torch.testing.assert_close(a[:, 16:], b[:, 16:], rtol=0, atol=1e-6)
    assert float((a[:, 4:8] - b[:, 4:8]).abs().max()) > 1e-4


@torch.no_grad()
def test_positions_are_relative() -> None:
    """The same chunk further on, with the same past in reach, gets the same answer."""
    model = EarlyExitConformer(replace(CHUNKED, layers=1, exits=(1,), left=4)).eval()
    part = torch.randn(1, 16, 8).repeat(1, 8, 1)
    (answer,) = model(part, torch.tensor([128]))
    torch.testing.assert_close(answer["output"][:, 12:16], answer["output"][:, 28:32], rtol=0, atol=1e-5)


def test_a_single_exit_network_is_the_same_shape_without_the_other_heads() -> None:
    model = asr_digits()
    alone = single_exit(model, 2)
    assert alone.config == replace(model.config, layers=2, exits=(2,))
    assert len(alone(torch.zeros(1, 8, 40), torch.tensor([8]))) == 1
    with pytest.raises(ModelError, match="7 layers asked for, the network has 6"):
        single_exit(model, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 15}, "even number of channels"),
        ({"exits": (2, 1, 3)}, "grow from 1"),
        ({"exits": (1, 2)}, "last exit stands after layer 2 of 3"),
        ({"exits": ()}, "grow from 1"),
        ({"kernel": 4}, "odd kernel"),
        ({"left": 3}, "left=0"),
        ({"chunk": 0}, "chunk >= 1"),
        ({"bins": 0}, "bins=0"),
        ({"dropout": 1.0}, "dropout"),
        ({"norm": "group"}, "layer, batch"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(WHOLE, **change)


def test_a_bad_normalisation_is_refused() -> None:
    with pytest.raises(ModelError, match="positive deviation"):
        net("whole").set_normalisation(torch.zeros(8), torch.zeros(8))
    with pytest.raises(ModelError, match=r"shape \(8,\)"):
        net("whole").set_normalisation(torch.zeros(7), torch.ones(7))


def test_splitformer_takes_whole_utterances() -> None:
    with pytest.raises(ModelError, match="chunk must be None"):
        Splitformer(CHUNKED)


class Flat(nn.Module):
    """Log-probabilities of every exit, then their lengths, as graph outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, ...]:
        exits = self.model(x, x_lens)
        return (*(e["output"] for e in exits), exits[-1]["lengths"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chunked", "splitformer"])
def test_an_exported_graph_answers_at_lengths_it_never_saw(name: str) -> None:
    """Export alone proves nothing: a frozen parity or batch of one shows only when the file runs elsewhere."""
    runtime = pytest.importorskip("onnxruntime", reason="runs the exported file")
    pytest.importorskip("onnxscript", reason="torch's ONNX exporter needs it")
    model = net(name)
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=7)
    program = torch.onnx.export(
        Flat(model).eval(), (torch.randn(2, 40, 8), torch.tensor([40, 33])), dynamo=True, verbose=False,
        input_names=["x", "x_lens"], dynamic_shapes=({0: batch, 1: time}, {0: batch}),
    )  # fmt: skip
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for sizes in ([7], [8], [41], [42, 17], [83, 82, 7], [64, 3]):
        x, lens = torch.randn(len(sizes), max(sizes), 8), torch.tensor(sizes)
        with torch.no_grad():
            wanted = Flat(model)(x, lens)
        found = session.run(None, {"x": x.numpy(), "x_lens": lens.numpy()})
        assert found[-1].tolist() == wanted[-1].tolist()
        for a, b in zip(found[:-1], wanted[:-1], strict=True):
            for row, n in enumerate(wanted[-1].tolist()):
                torch.testing.assert_close(torch.from_numpy(a[row, :n]), b[row, :n], rtol=0, atol=1e-5)
