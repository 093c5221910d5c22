"""Records of ``manifest.json``: their annotations and docstrings are the format's one source.

`scripts/format_docs.py` writes `schema.json` and the tables of `docs/bundle-format.md` from them; rules between fields
are in `edgeexit.bundle.checks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from edgeexit.bundle.file_spec import FileSpec
from edgeexit.bundle.input_range import InputRange
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.lm_spec import LmProof, LmSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.common.kinds import Axis, Count, Name, Number, OneOf, RowOf, Text, Whole
from edgeexit.common.records import Narrow, NotRequired, OmitDefault, Record, Size
from edgeexit.errors import BundleError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit.policy.scores import GRAPH_SCORES, score_named

FORMAT = "edgeexit"
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


Dtype = Annotated[str, OneOf(*DTYPES)]
_AXES = Size(1, 16)
_LARGEST_SCALE = 2.0**126
"""float32 holds such a scale and its inverse."""


@dataclass(frozen=True)
class TensorSpec(Record, title="tensor"):
    """One named tensor."""

    name: Text
    """As in the model files."""
    dtype: Dtype
    """Type of its numbers."""
    shape: Annotated[tuple[Axis, ...], Size(0, 16)]
    """Fixed sizes as numbers, free axes as names; equal names mean equal sizes."""
    batch_axis: NotRequired[Count | None] = 0
    """Axis that counts inputs; None = the tensor is the same for the whole batch; missing = 0."""


PerInput = Annotated[
    TensorSpec,
    Narrow("perInput", shape=Annotated[tuple[Axis, ...], _AXES], batch_axis=Annotated[int, OneOf(0)]),
]
"""A model input or an exit's output: its axis 0 counts inputs."""
Fixed = Annotated[
    TensorSpec,
    Narrow(
        "fixed",
        shape=Annotated[tuple[Annotated[int, Whole(0, 1 << 40)], ...], _AXES],
        batch_axis=Annotated[int, OneOf(0)],
    ),
]
"""A tensor of fixed sizes for one input per call."""


@dataclass(frozen=True)
class ExitSpec(Record, title="exit"):
    """A place where the network can answer."""

    name: Text
    """For people."""
    outputs: Annotated[tuple[PerInput, ...], Size(1, 4)]
    """The answer `(inputs, ..., classes)`, whose axes between are positions (frames, tokens, pixels); then the tensors
    that `uncertainty`, `learned` and `lengths` name."""
    kind: Annotated[str, OneOf("logits", "probs")]
    """What the answer holds along its last axis."""
    macs: Count | None
    """Multiply-accumulates for one input to answer here, all heads on the way included; None = unknown."""
    prefix_macs: Count | None
    """The same for a network with this exit only."""
    members: NotRequired[Annotated[int, Whole(1, MAX_MEMBERS)]] = 1
    """Heads that answer together; the answer of several is the mean of their probabilities. Missing = 1."""
    uncertainty: NotRequired[Text | None] = None
    """The output, float32 `(inputs,)`, with the [spread of the heads](#scores); None exactly where there is one
    head."""
    learned: NotRequired[Text | None] = None
    """The output, float32 `(inputs,)`, with the exit's learned score; None = it has none."""
    lengths: OmitDefault[Text | None] = None
    """The output, int64 `(inputs,)`, that counts the valid positions of the answer, which is then
    `(inputs, positions, classes)`; the positions behind them are padding. None = all positions are valid. Either every
    exit has one, or none."""

    @property
    def answer(self) -> TensorSpec:
        return self.outputs[0]

    def gives(self, score: str) -> bool:
        """Whether this score is known here; those computed from the answer always are."""
        return getattr(self, score_named(score).needs, "") is not None


@dataclass(frozen=True)
class StateSpec(Record, title="state"):
    """A tensor that a network with memory carries from one call to the next; a stream of inputs starts with zeros."""

    input: Fixed
    """Model input of fixed sizes with a first axis of 1."""
    output: Text
    """Tensor of the same type and shape that is its next value."""


@dataclass(frozen=True)
class StageSpec(Record, title="stage"):
    """The computation that exit k needs and no earlier exit did."""

    inputs: Annotated[tuple[Text, ...], Size(1)]
    """Model inputs, states and cuts that it reads."""
    outputs: Annotated[tuple[Text, ...], Size(1)]
    """The exit's tensors, the next values of its states, then the cuts that it makes."""
    macs: Count | None
    """Multiply-accumulates of this stage alone, for one input; None = unknown."""
    parameters: Count
    """Number of weights that no earlier stage uses."""
    weight_bytes: Count
    """Bytes of these weights."""
    cut_bytes: Count | None
    """Bytes handed on past this stage for one input, at the exporter's example sizes; None = unknown."""
    states: NotRequired[tuple[StateSpec, ...]] = ()
    """Tensors that the stage carries from one call to the next: it reads them first and computes their next values."""


@dataclass(frozen=True)
class Check(Record, title="check"):
    """Differences of an artifact's outputs from the source model's when it was exported."""

    tolerance: Annotated[float, Number(0)]
    """Largest allowed difference, as a fraction of the exit's largest output."""
    max_error: Annotated[tuple[Annotated[float, Number(0)], ...], Size(1, MAX_EXITS)]
    """Largest measured difference, one per exit, likewise."""
    inputs: Count
    """Number of inputs compared."""


@dataclass(frozen=True)
class Port(Record, title="port"):
    """A model input or an exit's tensor as an artifact's file has it, where that differs from the manifest."""

    name: Text
    """Of the model input or the exit's tensor."""
    dtype: Dtype
    """In the artifact's file."""
    order: NotRequired[Annotated[tuple[Annotated[int, Whole(0, 15)], ...], Size(1, 16, unique=True)] | None] = None
    """Axis i of the artifact's tensor is axis `order[i]` of the network's, e.g. `[0, 2, 3, 1]` for NHWC; None = the
    same. Axis 0 stays."""
    scale: NotRequired[Annotated[float, Number(1 / _LARGEST_SCALE, _LARGEST_SCALE)] | None] = None
    """Real value = scale x (integer - zero_point); None = not quantized. float32 holds the scale and its inverse."""
    zero_point: NotRequired[Annotated[int, Whole(1 - (1 << 31), (1 << 31) - 1)] | None] = None
    """None exactly where `scale` is."""
    called: OmitDefault[Text | None] = None
    """Its name in the artifact's file; None = `name`. The files of layout `prefix` may use one name for several exits'
    tensors."""


@dataclass(frozen=True)
class Artifact(Record, title="artifact"):
    """One runnable form: format x layout x precision."""

    name: Name
    """E.g. `onnx-fused-fp32`."""
    format: Name
    """The engine that runs it: `onnx` or `tflite`. A reader skips artifacts of formats that it does not know."""
    layout: Annotated[str, RowOf(LAYOUTS)]
    """See [layouts](#layouts); `decoder` only where `lm` is there."""
    precision: Name
    """A note, e.g. `fp32` or `int8`."""
    score: NotRequired[Annotated[str, OneOf(*GRAPH_SCORES)] | None]
    """The [score](#scores) inside a fused graph; None for the other layouts."""
    temperatures: Annotated[tuple[Annotated[float, Number(positive=True)], ...], Size(1, MAX_EXITS)]
    """Divisors of the logits before the score, one per exit; 1 until calibrated."""
    models: Annotated[tuple[FileSpec, ...], Size(1, MAX_EXITS)]
    """chain, prefix, decoder: one per exit, in their order; fused, all: one. A chain that is not `onnx` may be one file
    that holds all stages."""
    data: tuple[FileSpec, ...] = ()
    """Weights that the model files share, and files beside them such as `tokens.txt`; a decoder's other files."""
    vectors: NotRequired[FileSpec | None] = None
    """Inputs with expected outputs, see [.npz files](#npz-files)."""
    calibration: NotRequired[FileSpec | None] = None
    """Scores on the calibration rows, see [.npz files](#npz-files)."""
    check: NotRequired[Check | None] = None
    """Comparison with the source model at export; None = not compared."""
    batch: OmitDefault[Annotated[str, OneOf("one")] | None] = None
    """`one`: it takes one input per call, whatever the network can; None = as the network."""
    cuts: OmitDefault[tuple[TensorSpec, ...] | None] = None
    """Its own cut tensors; None = the network's."""
    ports: OmitDefault[Annotated[tuple[Port, ...], Size(0, 512)]] = ()
    """Model inputs and exits' tensors that differ in its file from the manifest."""
    sizes: OmitDefault[
        Annotated[
            Mapping[Text, Annotated[tuple[Annotated[int, Whole(1, 1 << 40)], ...], Size(1, 256, rising=True)]],
            Size(1, 1),
        ]
    ] = field(default_factory=dict)
    """A free axis of the inputs -> the sizes that its files are made for, rising; an input is padded with zeros to the
    next one. Missing = every size. Layout `chain` in one file, of exits with `lengths`."""
    proof: OmitDefault[LmProof | None] = None
    """decoder only: whether speculation gives the text of plain decoding; None = not tested."""

    @property
    def files(self) -> tuple[FileSpec, ...]:
        extra = (f for f in (self.vectors, self.calibration) if f is not None)
        return (*self.models, *self.data, *extra)

    @property
    def bytes(self) -> int:
        """Size of what the engine loads."""
        return sum(f.bytes for f in (*self.models, *self.data))


_PerInputMap = Size(0, 256)


@dataclass(frozen=True)
class Manifest(Record, title="manifest"):
    """Content of a bundle."""

    name: Text
    """Of the network."""
    task: Text
    """A note, e.g. `classification`, and the name of a task that [another distribution](extending.md) adds."""
    batch: Annotated[str, OneOf("dynamic", "one")]
    """dynamic: axis 0 of the inputs counts inputs; one: the model files take one input per call."""
    inputs: Annotated[tuple[PerInput, ...], Size(1, 256)]
    """The model's inputs, in the order of `input_0`, `input_1`, ... of the vectors."""
    exits: Annotated[tuple[ExitSpec, ...], Size(1, MAX_EXITS)]
    """Shallow to deep."""
    stages: Annotated[tuple[StageSpec, ...], Size(1, MAX_EXITS)]
    """One per exit: stage k belongs to exit k."""
    cuts: tuple[TensorSpec, ...]
    """Tensors that one stage makes and a later one reads."""
    artifacts: Annotated[tuple[Artifact, ...], Size(1, 256)]
    """Runnable forms of the network."""
    policies: Mapping[Name, FileSpec] = field(default_factory=dict)
    """Operating points by name."""
    labels: NotRequired[Annotated[tuple[Text, ...], Size(0, 1 << 20)] | None] = None
    """Class names in the order of the outputs, as many as the last exit has classes; None = unknown."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Free: source, versions, settings, in any JSON within the limits."""
    speech: OmitDefault[SpeechSpec | None] = None
    """Audio features and output symbols of a speech model; None = it is none."""
    min_sizes: OmitDefault[Annotated[Mapping[Text, Annotated[int, Whole(0, 1 << 40)]], _PerInputMap]] = field(
        default_factory=dict
    )
    """Free axis of an input -> the smallest size that the network takes along it; axes that are missing were not
    tested."""
    lm: OmitDefault[LmSpec | None] = None
    """Sizes of a language model; None = it is none."""
    default_policy: OmitDefault[Name | None] = None
    """One of `policies`: the operating point followed [by default](#default-operating-point); None = the first."""
    preprocess: OmitDefault[Annotated[Mapping[Text, Preprocess], _PerInputMap]] = field(default_factory=dict)
    """Input -> how pixels become that input; an input that is missing takes no pictures."""
    ranges: OmitDefault[Annotated[Mapping[Text, InputRange], _PerInputMap]] = field(default_factory=dict)
    """Input -> range of its numbers over the latest calibration rows."""

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
