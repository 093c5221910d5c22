"""Content of foreign ONNX files: what runs in onnxruntime is exported, the rest is refused or named, never dropped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import CLASSES, Net

import edgeexit
from edgeexit import ModelError, fixed_exit
from edgeexit.errors import first_line
from edgeexit_exporters.augment.flow import places_of
from edgeexit_exporters.exporting import open_source
from edgeexit_exporters.onnx.foreign import dense
from edgeexit_exporters.spec import ExportSpec

X = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
NODES = {"a0": 0, "f0": 1, "y0": 2, "a1": 3, "f1": 4, "y1": 5}


def two_exits() -> ModelProto:
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 4, 8)], "a0", name="n0")
    net.op("Relu", ["a0"], "f0", name="n1")
    net.head("f0", 8, "y0")
    net.op("MatMul", ["f0", net.weight("w1", 8, 8)], "a1", name="n3")
    net.op("Relu", ["a1"], "f1", name="n4")
    net.head("f1", 8, "y1")
    return net.model({"x": ["batch", 4]}, {n: ["batch", CLASSES] for n in ("y0", "y1")})


def exported(model: ModelProto, folder: Path, **options: object) -> tuple[edgeexit.Bundle, list[str]]:
    """The bundle, compared with the file itself at every exit, and the notes that were given."""
    path = folder / "net.onnx"
    onnx.save(model, path)
    said: list[str] = []
    bundle = edgeexit.export(path, folder / "b", progress=said.append, overwrite=True, **options)  # type: ignore[arg-type]
    agrees(bundle, path)
    return bundle, [line.removeprefix("note: ") for line in said if line.startswith("note: ")]


def agrees(bundle: edgeexit.Bundle, path: Path) -> None:
    names = [e.name for e in bundle.manifest.exits]
    session = onnxruntime.InferenceSession(str(path))
    feed = {i.name: X for i in session.get_inputs() if i.name in ("x", "unread")}
    have = {o.name for o in session.get_outputs()}
    wanted = session.run([n for n in names if n in have], feed)
    for layout in {a.layout for a in bundle.manifest.artifacts} - {"all"}:
        engine = edgeexit.load(bundle, artifact=layout, warmup=0)
        for k, want in zip([i for i, n in enumerate(names) if n in have], wanted, strict=True):
            engine.policy = fixed_exit(k, len(names), "maxprob")
            row = {n: a[:1] for n, a in feed.items()}
            np.testing.assert_allclose(engine.run(row).output, want[0], rtol=1e-4, atol=1e-5)


def array(name: str, values: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def sparse(model: ModelProto, indices: NDArray[np.int64], dims: tuple[int, ...] = (4, 8)) -> None:
    """Weight w0 with the numbers 1, 2, ... at `indices`, in the file's sparse form."""
    del model.graph.initializer[next(i for i, t in enumerate(model.graph.initializer) if t.name == "w0")]
    found = model.graph.sparse_initializer.add(dims=dims)
    found.values.CopyFrom(array("w0", np.arange(1, len(indices) + 1, dtype=np.float32)))
    found.indices.CopyFrom(array("w0_at", indices))


def zipped() -> ModelProto:
    """As converters of scikit-learn models write it: the answer as a sequence of maps."""
    model = two_exits()
    model.graph.node.append(helper.make_node("Softmax", ["y1"], ["p"], axis=-1))
    model.graph.node.append(helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]))
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output[1].CopyFrom(helper.make_value_info("z", helper.make_sequence_type_proto(maps)))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return model


# What is exported


def test_sparse_weights_are_made_dense(tmp_path: Path) -> None:
    for indices in (np.array([0, 9, 17]), np.array([[0, 0], [1, 1], [2, 1]]), np.zeros(0, np.int64)):
        model = two_exits()
        sparse(model, indices)
        bundle, notes = exported(model, tmp_path)
        assert bundle.manifest.stages[0].parameters == 4 * 8 + 8 * CLASSES
        assert notes == []


def test_a_sparse_constant_is_made_dense(tmp_path: Path) -> None:
    model = two_exits()
    found = helper.make_sparse_tensor(array("v", np.float32([1, 2])), array("i", np.array([[0, 0], [2, 3]])), [4, 8])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=found))
    model.graph.node[1].input[1] = "w"
    exported(model, tmp_path)


def test_coordinates_and_places_give_the_same_tensor() -> None:
    whole = np.zeros((2, 3), np.float32)
    whole[0, 2], whole[1, 1] = 5, 7
    for indices in ([2, 4], [[0, 2], [1, 1]]):
        found = onnx.SparseTensorProto(dims=[2, 3])
        found.values.CopyFrom(array("s", np.float32([5, 7])))
        found.indices.CopyFrom(array("i", np.array(indices, np.int64)))
        np.testing.assert_array_equal(numpy_helper.to_array(dense(found, "s", "net.onnx")), whole)


@pytest.mark.parametrize(
    ("indices", "dims"),
    [
        ([0, 99], (4, 8)),
        ([-1, 3], (4, 8)),
        ([0, 1], (1 << 40, 8)),
        ([0, 1], (-4, -8)),
        ([[0, 8]], (4, 8)),
        ([[0, 0, 0]], (4, 8)),
        ([0.5, 1.5], (4, 8)),
    ],
)
def test_damaged_sparse_weights_are_refused(tmp_path: Path, indices: list[object], dims: tuple[int, ...]) -> None:
    model = two_exits()
    sparse(model, np.array(indices), dims)
    with pytest.raises(ModelError, match=r"net\.onnx: sparse weight 'w0' is damaged"):
        exported(model, tmp_path)


def no_shape(model: ModelProto) -> None:
    model.graph.output[1].type.tensor_type.ClearField("shape")


def no_type(model: ModelProto) -> None:
    model.graph.output[0].ClearField("type")


def out_of_order(model: ModelProto) -> None:
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(model.graph.node)]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def out_of_order_and_old(model: ModelProto) -> None:
    out_of_order(model)
    model.opset_import[0].version = 11


def no_version(model: ModelProto) -> None:
    model.ir_version = 0


def a_later_version(model: ModelProto) -> None:
    model.ir_version = 14


def no_name(model: ModelProto) -> None:
    model.graph.name = ""


def a_weight_twice(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def a_stale_shape(model: ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("f0", TensorProto.FLOAT, [7, 7]))


def dropout_that_does_nothing(model: ModelProto) -> None:
    model.graph.initializer.extend([array("ratio", np.float32(0)), array("on", True)])
    model.graph.node[NODES["f0"]].CopyFrom(helper.make_node("Dropout", ["a0", "ratio", "on"], ["f0"]))


def dropout_in_evaluation(model: ModelProto) -> None:
    model.graph.node[NODES["f0"]].CopyFrom(helper.make_node("Dropout", ["a0"], ["f0"]))


def an_inner_graph_out_of_order(model: ModelProto) -> None:
    nodes = [helper.make_node("Relu", ["twice"], ["t"]), helper.make_node("Add", ["a0", "a0"], ["twice"])]
    out = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    then = helper.make_graph(nodes, "then", [], out)
    other = helper.make_graph([helper.make_node("Relu", ["a0"], ["t"])], "else", [], out)
    model.graph.initializer.append(array("yes", True))
    model.graph.node[1].CopyFrom(helper.make_node("If", ["yes"], ["f0"], then_branch=then, else_branch=other))


@pytest.mark.parametrize(
    "change",
    [
        no_shape, no_type, out_of_order, out_of_order_and_old, no_version, a_later_version, no_name, a_weight_twice,
        a_stale_shape, dropout_that_does_nothing, dropout_in_evaluation,
    ],
)  # fmt: skip
def test_what_onnxruntime_runs_is_exported(tmp_path: Path, change: Callable[[ModelProto], None]) -> None:
    model = two_exits()
    change(model)
    bundle, notes = exported(model, tmp_path)
    assert [a.layout for a in bundle.manifest.artifacts] == ["fused", "chain", "prefix", "all"]
    assert notes == []


def test_an_input_without_a_shape_gets_it_from_the_user(tmp_path: Path) -> None:
    model = two_exits()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=r"input 'x' states no shape: pass --input 'x:float32\[batch,...\]'"):
        exported(model, tmp_path)
    exported(model, tmp_path, inputs=["x:float32[batch,4]"])


@pytest.mark.parametrize(("opset", "version"), [(9, 3), (11, 6), (18, 9), (21, 10)])
def test_generated_graphs_have_a_version_of_their_own(tmp_path: Path, opset: int, version: int) -> None:
    model = two_exits()
    model.opset_import[0].version, model.ir_version = opset, version
    if version == 3:
        for tensor in model.graph.initializer:  # as files of that time had to
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    bundle, notes = exported(model, tmp_path)
    assert [a.layout for a in bundle.manifest.artifacts] == ["fused", "chain", "prefix", "all"]
    assert notes == []
    stated = {onnx.load(bundle.file(f)).ir_version for a in bundle.manifest.artifacts for f in a.models}
    assert stated == {10 if opset == 21 else 8}


# What is named


def test_content_that_is_left_out_is_named(tmp_path: Path) -> None:
    model = two_exits()
    model.training_info.add()
    model.graph.quantization_annotation.add(tensor_name="f0")
    model.metadata_props.add(key="names", value="cat,dog,owl")
    model.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, [4, 8]))
    model.graph.input.append(helper.make_tensor_value_info("unread", TensorProto.FLOAT, ["batch", 4]))
    model.graph.node.append(helper.make_node("Tanh", ["f1"], ["more"]))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 8]))
    bundle, notes = exported(model, tmp_path, exits=["y0", "y1"])
    assert bundle.manifest.provenance["notes"] == notes
    for words in (
        "training_info of the file is left out",
        "quantization annotations of 'f0' are left out",
        "metadata of the file is not used: 'names'",
        "inputs with a value in the file keep that value: 'w0'",
        "no operation reads input 'unread'",
        "outputs that are no exits are left out: 'more'",
    ):
        assert any(words in note for note in notes), words


# What is refused, or left out where exits are named


def test_a_map_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"output 'z' is a sequence of maps made of 'p'.*'zipmap': False.*--exits"):
        exported(zipped(), tmp_path)
    bundle, notes = exported(zipped(), tmp_path, exits=["f0", "y0"], layouts=["chain"])
    assert [e.name for e in bundle.manifest.exits] == ["f0", "y0"]
    assert any(note.startswith("output 'z' is a sequence of maps") for note in notes)
    made_of = edgeexit.export(tmp_path / "net.onnx", tmp_path / "b", exits=["y0", "p"], overwrite=True)
    assert [(e.name, e.kind) for e in made_of.manifest.exits] == [("y0", "logits"), ("p", "probs")]
    with pytest.raises(ModelError, match="output 'z' is a sequence of maps"):
        exported(zipped(), tmp_path, exits=["y0", "z"])


def test_augment_names_the_map_too(tmp_path: Path) -> None:
    onnx.save(zipped(), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="name the answer with --output"):
        open_source(tmp_path / "net.onnx", single=True)
    places, _ = places_of(open_source(tmp_path / "net.onnx", ExportSpec(exits=["y1"]), single=True))
    assert places[0].tensors == ("f0",)


def sequence_between_stages(model: ModelProto) -> None:
    nodes = model.graph.node
    nodes[2].input[0] = nodes[3].input[0] = "again"
    nodes.insert(2, helper.make_node("SequenceAt", ["both", "first"], ["again"]))
    nodes.insert(2, helper.make_node("SequenceConstruct", ["f0"], ["both"]))
    nodes[5].input[0] = "later"
    nodes.insert(5, helper.make_node("SequenceAt", ["both", "first"], ["later"]))
    model.graph.initializer.append(array("first", np.int64(0)))


def text_between_stages(model: ModelProto) -> None:
    nodes = model.graph.node
    codes = {"domain": "ai.onnx.ml", "keys_int64s": [0, 1], "values_strings": ["1", "2"], "default_string": "3"}
    made = [
        helper.make_node("ArgMax", ["f0"], ["best"], axis=1),
        helper.make_node("LabelEncoder", ["best"], ["label"], **codes),
        *(helper.make_node("Cast", ["label"], [f"number{k}"], to=1) for k in range(2)),
        *(helper.make_node("Add", [f"f{k}", f"number{k}"], [f"g{k}"]) for k in range(2)),
    ]
    nodes[2].input[0], nodes[5].input[0] = "g0", "g1"
    nodes.extend(made)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))


def a_circle(model: ModelProto) -> None:
    model.graph.node[0].input[:] = ["f1", "w1"]


def weights_that_differ(model: ModelProto) -> None:
    model.graph.initializer.add().CopyFrom(array("w0", np.ones((4, 8), np.float32)))


def a_foreign_operation(model: ModelProto) -> None:
    model.graph.node[1].op_type, model.graph.node[1].domain = "Foo", "my.ops"
    model.opset_import.append(helper.make_opsetid("my.ops", 1))


def a_function_that_calls_itself(model: ModelProto) -> None:
    inner = helper.make_node("R", ["a"], ["b"], domain="mine")
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    model.functions.append(helper.make_function("mine", "R", ["a"], ["b"], [inner], opsets))
    model.graph.node[1].op_type, model.graph.node[1].domain = "R", "mine"
    model.opset_import.append(opsets[1])


def a_short_weight(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def a_sequence_as_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))


def a_map_as_input(model: ModelProto) -> None:
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.input.append(helper.make_value_info("m", maps))


def an_optional_output(model: ModelProto) -> None:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", CLASSES]))
    model.graph.node.append(helper.make_node("Optional", ["y1"], ["maybe"]))
    model.graph.output.append(helper.make_value_info("maybe", kind))


def trained_batch_norm(model: ModelProto) -> None:
    model.graph.initializer.extend(array(n, np.ones(8, np.float32)) for n in ("s", "b", "m", "v"))
    node = helper.make_node("BatchNormalization", ["a0", *"sbmv"], ["f0", "rm", "rv"], training_mode=1, name="bn")
    model.graph.node[1].CopyFrom(node)


def dropout_in_training(model: ModelProto) -> None:
    model.graph.initializer.append(array("on", True))
    model.graph.node[1].CopyFrom(helper.make_node("Dropout", ["a0", "", "on"], ["f0"], name="drop"))


def noise_in_a_function(model: ModelProto) -> None:
    nodes = [
        helper.make_node("RandomUniformLike", ["a"], ["r"], name="dice"),
        helper.make_node("Mul", ["a", "r"], ["b"]),
    ]
    model.functions.append(helper.make_function("mine", "R", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)]))
    model.graph.node[1].op_type, model.graph.node[1].domain = "R", "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))


def noise_in_a_branch(model: ModelProto) -> None:
    out = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    then = helper.make_graph([helper.make_node("RandomNormalLike", ["a0"], ["t"], name="dice")], "then", [], out)
    other = helper.make_graph([helper.make_node("Identity", ["a0"], ["t"])], "else", [], out)
    model.graph.initializer.append(array("yes", True))
    model.graph.node[1].CopyFrom(helper.make_node("If", ["yes"], ["f0"], then_branch=then, else_branch=other))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (sequence_between_stages, "tensor 'both' is a sequence"),
        (text_between_stages, "tensor 'label' is text"),
        (a_circle, r"net\.onnx: nodes form a circle through MatMul 'n0' \('a0'\)"),
        (weights_that_differ, "weight 'w0' stands twice and holds different numbers"),
        (a_foreign_operation, r"my\.ops:Foo.*no part of ONNX \(my\.ops:Foo\)"),
        (a_function_that_calls_itself, "not a valid ONNX model.*must not be recursive"),
        (a_short_weight, r"raw_data size .* is too small for the declared shape and type \(128 bytes required\)\."),
        (a_sequence_as_input, "input 's' is a sequence"),
        (a_map_as_input, "input 'm' is a map"),
        (an_optional_output, "output 'maybe' is an optional"),
        (trained_batch_norm, r"node 'bn' \(BatchNormalization of tensor 'f0'\) normalises by the batch at hand"),
        (dropout_in_training, r"differ from run to run: node 'drop' \(Dropout of tensor 'f0'\) is random"),
        (noise_in_a_function, r"node '.*dice.*' \(RandomUniformLike of tensor '.*'\) is random"),
        (noise_in_a_branch, r"node 'dice' \(RandomNormalLike of tensor 't'\) is random"),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path: Path, change: Callable[[ModelProto], None], words: str) -> None:
    model = two_exits()
    change(model)
    with pytest.raises(ModelError, match=words):
        exported(model, tmp_path)
    assert not (tmp_path / "b").exists()


def test_noise_that_no_exit_depends_on_is_left_out(tmp_path: Path) -> None:
    model = two_exits()
    model.graph.node.append(helper.make_node("RandomNormalLike", ["x"], ["noise"]))
    model.graph.output.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["batch", 4]))
    exported(model, tmp_path, exits=["y0", "y1"])


def test_damage_anywhere_is_never_a_traceback(tmp_path: Path) -> None:
    raw = zipped().SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(raw)
        for at in rng.integers(0, len(raw), 3):
            damaged[at] = rng.integers(0, 256)
        (tmp_path / "net.onnx").write_bytes(damaged)
        for single in (False, True):
            try:
                open_source(tmp_path / "net.onnx", ExportSpec(exits=["y0"] if single else ["y0", "y1"]), single=single)
            except ModelError as e:
                assert "\n" not in str(e)


# Links


def cached(folder: Path, blobs: str = "blobs", nested: str = "") -> Path:
    """A model as a download cache holds it: model.onnx and its weights are links to files of other names."""
    place, home = folder / blobs, folder / "snapshots" / "rev" / nested
    place.mkdir(parents=True)
    home.mkdir(parents=True)
    onnx.save(two_exits(), home / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    for name, blob in (("m.onnx", "c6ed"), ("m.data", "b879")):
        (home / name).rename(place / blob)
        (home / name).symlink_to(os.path.relpath(place / blob, home))
    return home / "m.onnx"


@pytest.mark.parametrize("nested", ["", "onnx"])
def test_a_model_of_links_is_read(tmp_path: Path, nested: str) -> None:
    path = cached(tmp_path, nested=nested)
    agrees(edgeexit.export(path, tmp_path / "b"), path)


def test_a_link_to_a_model_finds_the_weights_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "m.onnx"
    onnx.save(two_exits(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "link.onnx").symlink_to(path)
    agrees(edgeexit.export(tmp_path / "link.onnx", tmp_path / "b"), path)


def test_a_link_to_elsewhere_is_refused_with_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    onnx.save(two_exits(), home / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (home / "m.data").rename(tmp_path / "secret")
    (home / "m.data").symlink_to("../secret")
    with pytest.raises(ModelError, match=r"'m\.data' is a link to '.*secret', outside the model's folder: put"):
        edgeexit.export(home / "m.onnx", tmp_path / "b")
    (home / "m.data").unlink()
    (home / "m.data").symlink_to("gone")
    with pytest.raises(ModelError, match="is a link to 'gone', where nothing is"):
        edgeexit.export(home / "m.onnx", tmp_path / "b")
    (tmp_path / "lost.onnx").symlink_to("nowhere.onnx")
    with pytest.raises(ModelError, match=r"lost\.onnx: is a link to 'nowhere\.onnx', where nothing is"):
        edgeexit.export(tmp_path / "lost.onnx", tmp_path / "b")


def test_pointers_and_folders_are_named(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / "m.onnx").write_text(pointer)
    with pytest.raises(ModelError, match="holds a Git LFS pointer"):
        edgeexit.export(tmp_path / "m.onnx", tmp_path / "b")
    onnx.save(two_exits(), tmp_path / "w.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    (tmp_path / "w.data").write_text(pointer)
    with pytest.raises(ModelError, match=r"w\.data.*(Git LFS pointer|cut short)"):
        edgeexit.export(tmp_path / "w.onnx", tmp_path / "b")
    (tmp_path / "d.onnx").mkdir()
    with pytest.raises(ModelError, match="is a folder"):
        edgeexit.export(tmp_path / "d.onnx", tmp_path / "b")


def test_weight_files_that_are_too_short(tmp_path: Path) -> None:
    onnx.save(two_exits(), tmp_path / "w.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    raw = (tmp_path / "w.data").read_bytes()
    (tmp_path / "w.data").write_bytes(raw[:40])
    with pytest.raises(ModelError, match=r"lies at bytes \d+ to \d+ of 'w\.data', which has 40"):
        edgeexit.export(tmp_path / "w.onnx", tmp_path / "b")


# Messages


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", "one"),
        ("input 'h2' of node:\nname:  OpType: MatMul\nmore", "input 'h2' of node: name: OpType: MatMul"),
        ("", "ValueError"),
        ("word " * 200, "word " * 58 + "word ..."),
    ],
)
def test_messages_end_at_a_word(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line
