"""sherpa-onnx contract of prefix files of speech models, so that stock sherpa-onnx runs an exit.

The contract (k2-fsa/sherpa-onnx, model type zipformer2_ctc): inputs features `(batch, time, bins)` and their lengths,
by position; outputs log-probabilities and their lengths, likewise; flat texts in the model's metadata; `tokens.txt`
beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.manifest import ExitSpec, Port
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import DataError
from edgeexit.speech.tokens import BLANKS, Tokens
from edgeexit_exporters.analysis.answers import SourceAnswer
from edgeexit_exporters.onnx import graph
from edgeexit_exporters.source.inputs import InputSpec, length_inputs
from edgeexit_exporters.source.join import valid_of

LOG_PROBS, LENGTHS, TOKENS = "log_probs", "log_probs_len", "tokens.txt"
FACTOR = 4
"""Feature frames per answer that sherpa-onnx takes for granted with this model type; it only moves its time stamps."""
_NORMALISED = 1e-3
"""How far the probabilities of a position may be from adding up to 1."""


@dataclass(frozen=True)
class Contract:
    """What the files of all exits share."""

    name: str
    """Of the network."""
    speech: SpeechSpec
    tokens: str
    """Content of `tokens.txt`."""

    def ports(self, exits: Sequence[ExitSpec]) -> tuple[Port, ...]:
        """The manifest's tensors under the contract's names."""
        ports = []
        for exit in exits:
            for spec, called in ((exit.answer, LOG_PROBS), (exit.outputs[-1], LENGTHS)):
                ports.append(Port(spec.name, spec.dtype, called=called))
        return tuple(ports)

    def dress(self, model: ir.Model, exit: ExitSpec, k: int) -> None:
        """Give the file of exit `k` the contract's names, their order, and its metadata; changed in place."""
        known = graph.values(model.graph)
        wanted = {exit.answer.name: LOG_PROBS, exit.lengths: LENGTHS}
        for name, value in known.items():
            if name in wanted.values() and name not in wanted:
                value.name = f"{name}_inside"
        outputs = sorted(model.graph.outputs, key=lambda v: [*wanted, v.name].index(v.name))
        model.graph.outputs.clear()
        model.graph.outputs.extend(outputs)
        for value in outputs:
            value.name = wanted.get(value.name, value.name)
        model.metadata_props.update(
            {
                "model_type": "zipformer2_ctc",
                "version": "1",
                "model_author": "EdgeExit",
                "comment": f"{self.name}: exit {k}, {exit.name}",
                "vocab_size": str(len(self.speech.tokens)),
                "subsampling_factor": str(_factor(self.speech)),
            }
        )


def contract(
    name: str,
    speech: SpeechSpec,
    inputs: Sequence[InputSpec],
    exits: Sequence[ExitSpec],
    answers: Sequence[SourceAnswer],
) -> Contract | str:
    """The contract, or why this network cannot keep it.

    Args:
        name: of the network.
        speech: features of the network and what its answers spell.
        inputs, exits: of the network.
        answers: what it gave; log-probabilities have to be.
    """
    counting = length_inputs(inputs)
    if [len(i.tensor.shape) for i in inputs] != [3, 1] or list(counting) != [inputs[1].tensor.name]:
        inputs_text = ", ".join(f"{i.tensor.name} {list(i.tensor.shape)}" for i in inputs)
        return f"it takes features (batch, time, bins) and their lengths (batch,), this network {inputs_text}"
    if any(e.lengths is None for e in exits):
        return "it gives lengths with its answers, and these exits give none"
    for exit in exits:
        for answer in answers:
            z = valid_of(answer.outputs[exit.answer.name], answer.outputs[exit.lengths or ""])
            with np.errstate(over="ignore"):
                far = np.abs(np.exp(z.astype(np.float64)).sum(-1) - 1).max(initial=0)
            if not far <= _NORMALISED:
                return f"it gives log-probabilities, and exit {exit.name!r} does not: end it with a log_softmax"
    symbols = list(speech.tokens)
    if symbols[speech.blank] not in BLANKS:
        symbols[speech.blank] = BLANKS[0]
    if (first := next((i for b in BLANKS for i, s in enumerate(symbols) if s == b), None)) != speech.blank:
        return f"it would take token {first} ({symbols[first or 0]}) for the blank, and that is {speech.blank}"
    try:
        return Contract(name, speech, Tokens(tuple(symbols), speech.blank).to_text())
    except DataError as e:
        return str(e)


def differences(speech: SpeechSpec) -> list[str]:
    """Differences between stock sherpa-onnx and the specification that no setting removes, in words."""
    own = FeatureSpec(speech.features.sample_rate, speech.features.bins, high_hz=-400.0)
    specified, does = speech.features.to_dict(), own.to_dict()
    differing = [
        f"{key} {does[key]!r} instead of {specified[key]!r}" for key in specified if specified[key] != does[key]
    ]
    if _factor(speech) != FACTOR:
        differing.append(f"{FACTOR} feature frames per answer instead of {_factor(speech)} (its time stamps)")
    if speech.drop:
        differing.append("tokens to drop by its own list (</s>, SIL), not the bundle's")
    return differing


def called(ports: Sequence[Port], exit: ExitSpec) -> Mapping[str, str]:
    """Names in the file of one exit -> the manifest's."""
    own = {t.name for t in exit.outputs}
    return {p.called: p.name for p in ports if p.called is not None and p.name in own}


def _factor(speech: SpeechSpec) -> int:
    return round(1000 * speech.frame_seconds / speech.features.shift_ms)
