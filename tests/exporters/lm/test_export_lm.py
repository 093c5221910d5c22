"""Bundles of decoders: the files are what the format says, and compute what the module computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lm_nets import CONFIG, UNTIED, built, text_ids
from torch import nn

import edgeexit
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.lm_spec import DecoderFiles
from edgeexit.errors import ExportMismatch
from edgeexit.lm.cache import Cache
from edgeexit.lm.loading import load_lm
from edgeexit_exporters.lm import LmExport, LmExportSpec, check, export_lm
from edgeexit_exporters.lm.source import open_source
from edgeexit_models.lm import LlamaLM, greedy

IDS = [5, 17, 250, 3, 3, 99, 41, 7, 0, 298, 12, 60]


def test_the_bundle_opens_and_says_what_it_is(made: LmExport) -> None:
    m = Bundle.open(made.bundle.path).manifest
    assert m == made.bundle.manifest
    assert m.lm is not None and (m.lm.stages, m.lm.eos, m.lm.context) == ((1, 2, 3), (0, 2), 64)
    assert [a.name for a in m.artifacts] == [
        f"onnx-decoder-{p}" for p in ("fp32", "int8", "int4", "int4-float", "int8-dynamic")
    ]
    assert [e.answer.shape[-1] for e in m.exits] == [40, 40, 300]
    assert sum(s.parameters for s in m.stages) == sum(p.numel() for p in built().parameters())
    products = sum(p.numel() for p in built().layers.parameters() if p.ndim == 2)
    assert m.exits[-1].macs == products + 300 * 64
    files = DecoderFiles.of(m.artifacts[0].models, m.artifacts[0].data)
    assert files.keys_values[0] is None and files.keys_values[1] is not None  # the first stage is never skipped
    assert m.artifacts[0].check is not None and max(m.artifacts[0].check.max_error) < 1e-5
    assert m.artifacts[1].check is None and m.provenance["lm_artifacts"]["onnx-decoder-int8"]["max_error"][-1] < 0.1


def test_tensors_are_those_of_the_format(made: LmExport) -> None:
    session = onnxruntime.InferenceSession(made.bundle.file(made.bundle.manifest.artifacts[0].models[1]))
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("hidden", ["batch", "tokens", 64]), ("cos", ["batch", "tokens", 1, 16]), ("sin", ["batch", "tokens", 1, 16]),
        ("mask", ["batch", 1, 1, "tokens", "rows"]), ("cache_position", ["tokens"]),
        ("past_key_values.1.key", ["rows", "batch", 2, 16]), ("past_key_values.1.value", ["rows", "batch", 2, 16]),
    ]  # fmt: skip
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("hidden_out", ["batch", "tokens", 64]), ("present.1.key", ["tokens", "batch", 2, 16]),
        ("present.1.value", ["tokens", "batch", 2, 16]),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 12])
def test_a_chain_in_blocks_is_the_whole_network(made: LmExport, size: int) -> None:
    lm, cache = load_lm(made.bundle), Cache(made.bundle.manifest.lm)  # type: ignore[arg-type]
    rows = []
    for at in range(0, len(IDS), size):
        hidden = lm.embed(IDS[at : at + size])
        for k in range(lm.count):
            hidden = lm.run_stage(k, hidden, cache)
        rows.append(lm.logits(hidden))
    with torch.no_grad():
        expected = built()(torch.tensor([IDS]))[0].numpy()
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=2e-4)


def test_greedy_text_is_the_modules(made: LmExport) -> None:
    lm, cache = load_lm(made.bundle), Cache(made.bundle.manifest.lm)  # type: ignore[arg-type]
    text, fresh = IDS[:4], IDS[:4]
    for _ in range(20):
        hidden = lm.embed(fresh)
        for k in range(lm.count):
            hidden = lm.run_stage(k, hidden, cache)
        fresh = [int(lm.logits(hidden[:, -1:]).argmax())]
        text = [*text, *fresh]
    assert text == greedy(built(), torch.tensor(IDS[:4]), 20).tolist()


@pytest.mark.slow
def test_files_are_clean_and_the_same_every_time(made: LmExport, tmp_path: Path) -> None:
    first = made.bundle
    for artifact in first.manifest.artifacts:
        for file in (f for f in artifact.files if f.path.endswith(".onnx")):
            raw = first.file(file).read_bytes()
            assert b"/home" not in raw and b".py" not in raw and b"stack_trace" not in raw, file.path
            model = onnx.load(first.file(file), load_external_data=False)
            assert not model.metadata_props and not any(n.metadata_props or n.doc_string for n in model.graph.node)
    wish = LmExportSpec(stages=(), keys_values=False)
    once, twice = (
        export_lm(built(replace(CONFIG, num_hidden_layers=1)), tmp_path / n, wish, tokenizer=None, name="x")
        for n in ("a", "b")
    )
    assert (once.bundle.path / "manifest.json").read_bytes() == (twice.bundle.path / "manifest.json").read_bytes()
    assert all(a.proof is None for a in once.bundle.manifest.artifacts)  # there was no text


def test_a_tied_head_reads_the_embedding(made: LmExport) -> None:
    folder = made.bundle.path / "artifacts/onnx-decoder-fp32"
    assert (folder / "head.onnx").stat().st_size < 4000 < (folder / "embedding.npy").stat().st_size
    table = np.load(folder / "embedding.npy")
    np.testing.assert_array_equal(table, built().embed_tokens.weight.detach().numpy())
    half = np.load(made.bundle.path / "artifacts/onnx-decoder-int8/embedding.npy")
    np.testing.assert_array_equal(half, table.astype(np.float16))
    paths = [f.path for a in made.bundle.manifest.artifacts[1:] for f in a.data if f.path.endswith("embedding.npy")]
    assert {*paths} == {"artifacts/onnx-decoder-int8/embedding.npy"}


def test_heads_of_4_bit_models_keep_8(made: LmExport) -> None:
    def bits(name: str) -> set[int]:
        model = onnx.load(made.bundle.path / "artifacts/onnx-decoder-int4" / name, load_external_data=False)
        products = [n for n in model.graph.node if n.op_type == "MatMulNBits"]
        return {a.i for n in products for a in n.attribute if a.name == "bits"}

    assert (bits("stage_0.onnx"), bits("kv_1.onnx"), bits("head.onnx"), bits("exit_0.onnx")) == ({4}, {4}, {8}, {8})


@pytest.mark.slow
def test_an_untied_head_has_weights_of_its_own(tmp_path: Path) -> None:
    model = built(UNTIED)
    found = export_lm(model, tmp_path / "u.edgeexit", LmExportSpec(stages=(2,), keys_values=False), tokenizer=None)
    assert [len(lm_stage) for lm_stage in map(found.bundle.manifest.lm.layers_of, (0, 1))] == [2, 1]  # type: ignore[union-attr]
    lm = load_lm(found.bundle)
    hidden = torch.randn(1, 3, 64)
    with torch.no_grad():
        expected = model.head(hidden)[0].numpy()
    np.testing.assert_allclose(lm.logits(hidden.numpy()), expected, atol=1e-4)
    assert (found.bundle.path / "artifacts/onnx-decoder-fp32/head.onnx").stat().st_size > 300 * 64 * 4


def test_early_exits_choose_from_the_most_frequent_tokens(made: LmExport) -> None:
    lm = load_lm(made.bundle)
    ids, counts = lm.exit_ids(0), np.bincount(text_ids(), minlength=300)
    assert ids is not None and {0, 2} <= {*ids.tolist()} and len(ids) == 40
    others = np.setdiff1d(np.arange(300), ids)
    assert counts[np.setdiff1d(ids, [0, 2])].min() >= counts[others].max() - 10  # held-out pieces do not count
    assert lm.exit_ids(2) is None


def test_agreement_is_measured_on_held_out_text(made: LmExport) -> None:
    layers = [e.layer for e in made.exits]
    assert layers == [1, 2, 3] and made.exits[-1].shown == 1.0
    assert all(0 <= e.plain <= 1 and 0 <= e.shown <= 1 and e.tokens == made.exits[0].tokens > 0 for e in made.exits)
    assert made.bundle.manifest.provenance["lm_exits"][0]["shown"] == made.exits[0].shown


def test_stand_in_keys_and_values(made: LmExport) -> None:
    lm, spec = load_lm(made.bundle), made.bundle.manifest.lm
    assert spec is not None
    hidden, cache = torch.randn(1, 3, 64), Cache(spec)
    lm.fill(1, hidden.numpy(), cache)
    with torch.no_grad():
        expected = built().keys_values(1, 2, hidden, built().turn(torch.arange(3)[None]))
    for found, row in zip(cache.past(1), expected, strict=True):
        np.testing.assert_allclose(found, row.numpy(), atol=1e-5)


class _Off(LlamaLM):
    """In parts it is not what it is in the whole: what the export must notice."""

    def hidden(self, ids: torch.Tensor, keep: torch.Tensor | None = None) -> list[torch.Tensor]:
        return [h + 0.1 for h in super().hidden(ids, keep)]


@pytest.mark.slow
def test_a_part_that_differs_is_refused(made: LmExport, tmp_path: Path) -> None:
    lm = load_lm(made.bundle)
    other = built()
    with torch.no_grad():
        nn.init.normal_(other.layers[1].mlp.up_proj.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    maps: dict[int, nn.Module] = {}
    with pytest.raises(ExportMismatch, match=r"onnx-decoder-fp32: .*differs from the torch module by"):
        check.compare(lm, other, IDS, maps)
    odd = _Off(replace(CONFIG, num_hidden_layers=1))
    with pytest.raises(ExportMismatch, match="chain of all stages"):
        export_lm(odd, tmp_path / "odd.edgeexit", LmExportSpec(keys_values=False), tokenizer=None)
    assert not (tmp_path / "odd.edgeexit").exists()


def test_the_network_engine_leaves_it_alone(made: LmExport) -> None:
    with pytest.raises(edgeexit.BundleError, match="no fused or chain artifact"):
        edgeexit.load(made.bundle)


def test_default_stages() -> None:
    from edgeexit_exporters.lm.exporting import _stages

    assert _stages(open_source(built())) == (1, 2, 3)
    assert _stages(open_source(built(replace(CONFIG, num_hidden_layers=12)))) == (3, 6, 9, 12)
