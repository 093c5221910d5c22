"""The types of ``manifest.json``; `docs/bundle-format.md` is their specification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgeexit.bundle.input_range import InputRange
from edgeexit.bundle.lm_spec import LmProof, LmSpec
from edgeexit.common.files import MAX_FILE_BYTES as MAX_FILE_BYTES
from edgeexit.common.files import FileSpec as FileSpec
from edgeexit.errors import BundleError
from edgeexit.pictures.preprocess import Preprocess

if TYPE_CHECKING:
    from edgeexit.bundle.speech_spec import SpeechSpec

SCHEMA = 1
MAX_EXITS = 256
MAX_MEMBERS = 64
MAX_STATE = 1 << 28
"""Numbers in one state: a file that asks for more would take a device's memory by its name alone."""
DTYPES = (
    "float32",
    "float16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
)


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    """Fixed sizes as numbers, free axes as names; equal names mean equal sizes."""
    batch_axis: int | None = 0
    """The axis that counts inputs; None = the tensor is the same for the whole batch."""


@dataclass(frozen=True)
class ExitSpec:
    """A place where the network can answer."""

    name: str
    outputs: tuple[TensorSpec, ...]
    """The answer `(inputs, ..., classes)`, then what else the exit gives: `uncertainty`, `learned` and `lengths`."""
    kind: str
    """What the answer holds: logits or probs."""
    macs: int | None
    """Multiply-accumulates for one input to answer here, all heads on the way included; None = unknown."""
    prefix_macs: int | None
    """The same for a network with this exit only."""
    members: int = 1
    """Heads that answer together; the answer is then the mean of their probabilities."""
    uncertainty: str | None = None
    """The tensor `(inputs,)` with the spread of the heads, in [0, 1]; None = there is one head."""
    learned: str | None = None
    """The tensor `(inputs,)` with the exit's learned score; None = it has none."""
    lengths: str | None = None
    """The tensor `(inputs,)` int64 that counts the valid positions of the answer `(inputs, positions, classes)`; what
    stands behind them is padding. None = all positions are valid. Either every exit has one, or none."""

    @property
    def answer(self) -> TensorSpec:
        return self.outputs[0]

    def gives(self, score: str) -> bool:
        """Whether this score is known here; those computed from the answer always are."""
        return {"learned": self.learned, "ensemble": self.uncertainty}.get(score, "") is not None


@dataclass(frozen=True)
class StateSpec:
    """What a network with memory carries from one call to the next; a stream of inputs starts with zeros."""

    input: TensorSpec
    """As the network takes it: of fixed sizes, for one input per call."""
    output: str
    """The tensor, of the same type and shape, that is its next value."""


@dataclass(frozen=True)
class StageSpec:
    """The computation that exit k needs and no earlier exit did."""

    inputs: tuple[str, ...]
    """Model inputs, states and cut tensors it reads."""
    outputs: tuple[str, ...]
    """The exit's outputs, the next values of its states, then the cut tensors it produces."""
    macs: int | None
    parameters: int
    weight_bytes: int
    cut_bytes: int | None
    """Bytes of the tensors handed on past this stage for one input, at the example's sizes; None = unknown."""
    states: tuple[StateSpec, ...] = ()
    """What this stage carries on: it reads it first and computes its next value."""


@dataclass(frozen=True)
class Check:
    """How far an artifact's outputs were from the source model's when it was made."""

    tolerance: float
    """Largest allowed error, as a fraction of the exit's largest output."""
    max_error: tuple[float, ...]
    """`(exits,)` the largest seen, likewise."""
    inputs: int
    """Number of inputs compared."""


@dataclass(frozen=True)
class Port:
    """A model input or an exit's tensor as an artifact takes or gives it, where that is not as the manifest says."""

    name: str
    dtype: str
    order: tuple[int, ...] | None = None
    """Axis i of the artifact's tensor is axis `order[i]` of the network's; None = as the network's."""
    scale: float | None = None
    """Real value = scale * (integer - zero_point); None = not quantized."""
    zero_point: int | None = None
    called: str | None = None
    """Its name in the artifact's file; None = the network's."""


@dataclass(frozen=True)
class Artifact:
    """One runnable form: format x layout x precision."""

    name: str
    format: str
    layout: str
    precision: str
    score: str | None
    """The score inside a fused graph; None for the other layouts."""
    temperatures: tuple[float, ...]
    """`(exits,)` divisors of the logits before the score; 1 until calibrated."""
    models: tuple[FileSpec, ...]
    """chain: one per stage, or one that holds all stages; decoder: one per stage; prefix: one per exit; else: one."""
    data: tuple[FileSpec, ...] = ()
    """Weights that the model files share, and what else stands beside them, such as `tokens.txt`; a decoder's other
    files."""
    vectors: FileSpec | None = None
    calibration: FileSpec | None = None
    check: Check | None = None
    batch: str | None = None
    """one: it takes one input per call, whatever the network can; None = as the network."""
    cuts: tuple[TensorSpec, ...] | None = None
    """Its own cut tensors; None = the network's."""
    ports: tuple[Port, ...] = ()
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Free axis of the inputs -> the sizes, rising, that its files are made for: an input is padded up to the next one.
    Empty = every size. One axis at most, in layout chain."""
    proof: LmProof | None = None
    """decoder: whether tokens that go through together get the logits they get one by one; None = nobody looked."""

    @property
    def files(self) -> tuple[FileSpec, ...]:
        extra = (f for f in (self.vectors, self.calibration) if f is not None)
        return (*self.models, *self.data, *extra)

    @property
    def bytes(self) -> int:
        """Size of what the engine loads."""
        return sum(f.bytes for f in (*self.models, *self.data))


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds."""

    name: str
    task: str
    batch: str
    """dynamic: axis 0 of the inputs counts inputs; one: the model takes one input per call."""
    inputs: tuple[TensorSpec, ...]
    exits: tuple[ExitSpec, ...]
    stages: tuple[StageSpec, ...]
    cuts: tuple[TensorSpec, ...]
    artifacts: tuple[Artifact, ...]
    policies: Mapping[str, FileSpec] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    """Class names, in order of the outputs."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Free JSON: source, versions, settings."""
    speech: SpeechSpec | None = None
    """How a speech model hears and what its answers spell; None = it is none."""
    min_sizes: Mapping[str, int] = field(default_factory=dict)
    """Free axis of the inputs -> the smallest size that the network takes; an axis that is missing was not tried."""
    lm: LmSpec | None = None
    """Sizes of a language model; None = it is none."""
    default_policy: str | None = None
    """Name of the operating point to follow where none is asked for; None = the first of `policies`."""
    preprocess: Mapping[str, Preprocess] = field(default_factory=dict)
    """Input -> how a picture becomes it; an input that is missing takes no pictures."""
    ranges: Mapping[str, InputRange] = field(default_factory=dict)
    """Input -> what its numbers were like over the latest calibration rows."""

    def artifact(self, name: str) -> Artifact:
        """The artifact of that name.

        Raises:
            BundleError: there is none; the message lists what there is.
        """
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        raise BundleError(f"no artifact {name!r} in {self.name}; it holds {', '.join(a.name for a in self.artifacts)}")

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """Of all stages, in their order."""
        return tuple(state for stage in self.stages for state in stage.states)

    @property
    def feeds(self) -> tuple[TensorSpec, ...]:
        """Everything that the network takes: its inputs, then its states."""
        return (*self.inputs, *(s.input for s in self.states))

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """What goes in and comes out of the network: inputs, states and their next values, the exits' tensors."""
        following = (replace(s.input, name=s.output) for s in self.states)
        return (*self.feeds, *following, *(t for e in self.exits for t in e.outputs))

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """Every file once; artifacts of one precision share their vectors."""
        own = () if self.lm is None or self.lm.tokenizer is None else (self.lm.tokenizer,)
        return tuple(dict.fromkeys((*(f for a in self.artifacts for f in a.files), *self.policies.values(), *own)))
