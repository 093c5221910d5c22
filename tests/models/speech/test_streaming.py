"""Streams: chunk by chunk equals the whole, stacks keep their own memory, missed chunks can be caught up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models.speech.config import ConformerConfig
from edgeexit_models.speech.conformer import EarlyExitConformer
from edgeexit_models.speech.digits import asr_digits, asr_digits_streaming
from edgeexit_models.speech.streaming import StreamingConformer

BASE = ConformerConfig(
    bins=8, vocab=5, layers=3, width=16, heads=2, feed_forward=24, kernel=5, exits=(1, 3), chunk=4, left=6
)  # fmt: skip
CONFIGS = {
    "layer norm": BASE,
    "batch norm": replace(BASE, norm="batch"),
    "long past": replace(BASE, left=17),
    "no past": replace(BASE, left=0),
    "short kernel": replace(BASE, kernel=2),
    "long kernel": replace(BASE, kernel=11),
    "chunk of one": replace(BASE, chunk=1, left=3),
}


def network(config: ConformerConfig) -> EarlyExitConformer:
    torch.manual_seed(0)
    model = EarlyExitConformer(config)
    model.set_normalisation(torch.linspace(-3, 3, 8), torch.linspace(0.5, 2, 8))
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean)  # type: ignore[arg-type]
    return model.eval()


def by_chunks(stream: StreamingConformer, x: Tensor) -> list[Tensor]:
    """Every exit's log-probabilities of a stream; the last chunk is filled up with noise."""
    states = stream.zero_states()
    size = 4 * stream.chunk
    found: list[list[Tensor]] = []
    for at in range(0, x.shape[1], size):
        part = x[:, at : at + size]
        chunk = torch.cat([part, 100 * torch.randn(1, size - part.shape[1], x.shape[2])], dim=1)
        exits, states = stream(chunk, torch.tensor([part.shape[1]]), *states)
        found.append([e["output"][:, : int(e["lengths"][0])] for e in exits])
    return [torch.cat(parts, dim=1) for parts in zip(*found, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_stream_answers_as_the_whole_utterance_does(name: str) -> None:
    model = network(CONFIGS[name])
    stream = StreamingConformer(model)
    for time in (4, 7, 16, 17, 61, 64, 131):
        x = torch.randn(1, time, 8)
        whole = model(x, torch.tensor([time]))
        for a, b in zip(by_chunks(stream, x), whole, strict=True):
            assert a.shape == b["output"].shape
            torch.testing.assert_close(a, b["output"], rtol=0, atol=1e-5)


def test_states_are_named_declared_and_start_at_zero() -> None:
    stream = StreamingConformer(network(BASE))
    assert stream.states == (
        "features", "valid_0", "attention_0", "convolution_0",
        "valid_1", "attention_1", "convolution_1", "attention_2", "convolution_2",
    )  # fmt: skip
    assert list(stream.input_spec) == ["x", "x_lens", *stream.states]
    assert stream.input_spec["x"] == ("float32", (1, 16, 8))
    zeros = stream.zero_states()
    assert [tuple(z.shape) for z in zeros] == [stream.input_spec[n][1] for n in stream.states]
    _, new = stream(torch.zeros(1, 16, 8), torch.tensor([16]), *zeros)
    assert [n.shape for n in new] == [z.shape for z in zeros]
    assert not any(bool(z.any()) for z in zeros)


def test_a_stack_reads_and_changes_its_own_memory_only() -> None:
    """What exit 0 and its memory depend on is stage 0: no state of a deeper stack."""
    stream = StreamingConformer(network(BASE))
    torch.manual_seed(1)
    states = [torch.rand_like(z).requires_grad_() for z in stream.zero_states()]
    exits, new = stream(torch.randn(1, 16, 8), torch.tensor([16]), *states)
    first = stream.states.index("valid_1")

    def reaches(output: Tensor) -> list[bool]:
        found = torch.autograd.grad(output.sum(), states, retain_graph=True, allow_unused=True)
        return [g is not None for g in found]

    assert not any(reaches(exits[0]["output"].exp()[..., 0])[first:])
    for made in new[:first]:
        assert not any(reaches(made)[first:])
    assert all(reaches(exits[1]["output"].exp()[..., 0])[first + 1 :])


@torch.no_grad()
def test_missed_chunks_can_be_caught_up() -> None:
    """Stack 1 runs late, in order, on what stack 0 left it: the answers are those of the whole."""
    model = network(BASE)
    stream = StreamingConformer(model)
    x = torch.randn(1, 48, 8)
    states = list(stream.zero_states())
    cut = stream.states.index("valid_1")
    queue = []
    for at in (0, 16, 32):
        _, new = stream(x[:, at : at + 16], torch.tensor([16]), *states)
        queue.append((at, list(states[:cut])))  # what stage 0 had when it ran
        states[:cut] = new[:cut]
    deep = states[cut:]
    answers = []
    for at, shallow in queue:
        exits, new = stream(x[:, at : at + 16], torch.tensor([16]), *shallow, *deep)
        deep = list(new[cut:])
        answers.append(exits[1]["output"])
    torch.testing.assert_close(torch.cat(answers, dim=1), model(x, torch.tensor([48]))[1]["output"], rtol=0, atol=1e-5)


def test_a_network_for_whole_utterances_makes_no_stream() -> None:
    with pytest.raises(ModelError, match="set `chunk`"):
        StreamingConformer(network(replace(BASE, chunk=None, left=0)))
    with pytest.raises(ModelError, match="1 states given, this network has 9"):
        StreamingConformer(network(BASE))(torch.zeros(1, 16, 8), torch.tensor([16]), torch.zeros(1))


def test_weights_of_the_whole_fit_the_stream_and_its_own_do_too() -> None:
    saved = asr_digits().state_dict()
    stream = asr_digits_streaming()
    stream.load_state_dict(saved)
    assert bool((stream.model.heads[0].weight == saved["heads.0.weight"]).all())
    stream.load_state_dict(asr_digits_streaming().state_dict())
    assert not bool((stream.model.heads[0].weight == saved["heads.0.weight"]).all())
    with pytest.raises(RuntimeError, match="Missing key"):
        stream.load_state_dict({})


class Flat(nn.Module):
    """Answers, then memory, as graph outputs."""

    def __init__(self, stream: StreamingConformer) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        exits, new = self.stream(*inputs)
        return (*(e["output"] for e in exits), exits[-1]["lengths"], *new)


@torch.no_grad()
def test_an_exported_stream_answers_as_the_whole_utterance_does() -> None:
    runtime = pytest.importorskip("onnxruntime", reason="runs the exported file")
    pytest.importorskip("onnxscript", reason="torch's ONNX exporter needs it")
    model = network(BASE)
    stream = StreamingConformer(model)
    example = (torch.randn(1, 16, 8), torch.tensor([16]), *stream.zero_states())
    names = list(stream.input_spec)
    program = torch.onnx.export(Flat(stream).eval(), example, dynamo=True, verbose=False, input_names=names)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(1, 71, 8)
    memory, found = [z.numpy() for z in stream.zero_states()], []
    for at in range(0, 71, 16):
        part = x[:, at : at + 16]
        chunk = torch.cat([part, torch.full((1, 16 - part.shape[1], 8), 9.0)], dim=1)
        given = dict(zip(names, [chunk.numpy(), torch.tensor([part.shape[1]]).numpy(), *memory], strict=True))
        first, last, lengths, *memory = session.run(None, given)
        found.append([first[:, : lengths[0]], last[:, : lengths[0]]])
    for k, e in enumerate(model(x, torch.tensor([71]))):
        whole = torch.cat([torch.from_numpy(parts[k]) for parts in found], dim=1)
        torch.testing.assert_close(whole, e["output"], rtol=0, atol=1e-5)
