"""The published ResNet-20, untouched, on real pictures it has not seen. Needs the data pack."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from edgeexit_exporters.augment.flow import augment, places_of
from edgeexit_exporters.exporting import open_source
from edgeexit_exporters.spec import ExportSpec
from shared_data import cifar10_test, data_dir

WEIGHTS = "resnet20_cifar10/resnet20-12fca82f.th"


@pytest.mark.slow
def test_the_published_network_gets_exits(tmp_path: Path) -> None:
    weights = data_dir() / WEIGHTS
    if not weights.is_file():
        pytest.skip(f"{weights} is not in the data pack")
    x, y = cifar10_test()
    x = np.asarray(x[:4000], np.float32)
    y = np.asarray(y[:4000], np.int64)
    source = open_source("edgeexit_models:resnet20", ExportSpec(weights=weights), single=True)
    places, total = places_of(source)
    assert 40_000_000 < total < 42_000_000  # 40.6 million in the paper's counting, the head's 640 beside
    assert len(places) == 9 and all(p.kinds == ("picture",) for p in places)
    found = augment(source, {"image": x}, y, tmp_path / "r20.edgeexit", drop=0.02, pool="avgmax", exits=2, anyway=True)
    assert found.choice.full == pytest.approx(0.917, abs=0.02)
    assert found.bundle is not None and found.verdict is not None
    assert found.verdict.cost < 0.9 and found.verdict.drop_low < 0.02
    for artifact in found.bundle.manifest.artifacts:
        assert artifact.check is not None and artifact.check.max_error[-1] <= 1e-6
    if platform.machine() == "x86_64":  # elsewhere the engine may fuse otherwise
        for artifact in found.bundle.manifest.artifacts:
            assert artifact.check is not None and artifact.check.max_error[-1] == 0
