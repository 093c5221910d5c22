"""T-RECX's published networks answer in our modules as they did in Keras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeexit.errors import DataError, ModelError
from edgeexit_models import DSCNN, ResNet8, predict
from recipes.trecx import load_trecx
from shared_data import cifar10_test, gsc12_test_features, trecx_probs, trecx_weights

ROWS = slice(0, 400)


def test_resnet8_answers_as_published() -> None:
    pictures, labels = cifar10_test()
    wanted, wanted_labels = trecx_probs("resnet8")
    module = load_trecx(trecx_weights("resnet8"))
    assert isinstance(module, ResNet8)
    got = predict(module, pictures[ROWS]).softmax(2).numpy()
    np.testing.assert_array_equal(labels, wanted_labels)
    np.testing.assert_allclose(got, wanted[:, ROWS], atol=1e-4)


def test_dscnn_answers_as_published() -> None:
    wanted, wanted_labels = trecx_probs("dscnn")
    module = load_trecx(trecx_weights("dscnn"))
    assert isinstance(module, DSCNN)
    features, labels = gsc12_test_features()
    got = predict(module, features[ROWS]).softmax(2).numpy()
    np.testing.assert_array_equal(labels, wanted_labels)
    np.testing.assert_allclose(got, wanted[:, ROWS], atol=1e-4)


def _changed(tmp_path: Path, change: dict[str, np.ndarray | None]) -> Path:
    with np.load(trecx_weights("dscnn"), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for name, array in change.items():
        if array is None:
            del arrays[name]
        else:
            arrays[name] = array
    path = tmp_path / "changed.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"L2.bias": None}, r"no array for blocks\.0\.depthwise\.conv\.bias"),
        ({"L2.bias": np.zeros(63, np.float32)}, r"L2\.bias becomes \(63,\)"),
        ({"L18.kernel": np.zeros((100, 12), np.float32)}, r"heads\.0\.linear\.weight is \(12, 384\)"),
        ({"L99.kernel": np.zeros(2, np.float32)}, "'L99.kernel' has no place"),
        ({"L0.kernel": np.zeros((3, 3, 1, 8), np.float32)}, r"L0\.kernel is \(3, 3, 1, 8\): expected"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_trecx(_changed(tmp_path, change))


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 nothing more")
    for name in ("text.npz", "array.npy", "cut.npz", "absent.npz"):
        with pytest.raises(DataError, match="cannot be read as an npz"):
            load_trecx(tmp_path / name)


def test_probabilities_are_in_the_input_precision() -> None:
    assert predict(load_trecx(trecx_weights("dscnn")), torch.zeros(1, 1, 49, 10)).dtype == torch.float32
