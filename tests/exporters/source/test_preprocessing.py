"""Preprocessing of exported networks: stated, read from others' files and transforms, or attached to the module."""

from __future__ import annotations

import enum
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeexit
from edgeexit.bundle.manifest import TensorSpec
from edgeexit.errors import DataError
from edgeexit.pictures.convert import PictureInput
from edgeexit.pictures.foreign import from_foreign, is_foreign
from edgeexit.pictures.preprocess import Preprocess, picture_fields
from edgeexit_exporters.source.preprocessing import network_rows
from edgeexit_exporters.source.torch_transforms import from_transforms

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
from torch import nn  # noqa: E402

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SHAPE = ("batch", 3, 224, 224)
IMAGENET = Preprocess(
    (224, 224), resize_size=(256, 256), scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def fitted(fields: dict[str, Any], shape: tuple[Any, ...] = SHAPE) -> Preprocess:
    return picture_fields(shape, "float32", fields)


class Interpolation(enum.Enum):
    """As torchvision's."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    HAMMING = "hamming"


def step(kind: str, **attributes: Any) -> Any:
    """A transform as torchvision's class of that name holds it."""
    return type(kind, (), attributes)()


class Net(nn.Module):
    """Two exits on pictures of 12 x 12."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.input_spec = {"image": ("float32", ("batch", 3, 12, 12))}
        self.conv = nn.Conv2d(3, 4, 3)
        self.heads = nn.ModuleList([nn.Linear(3, 5), nn.Linear(4, 5)])

    def forward(self, image: Any) -> Any:
        return self.heads[0](image.mean((2, 3))), self.heads[1](torch.relu(self.conv(image)).mean((2, 3)))


SMALL = {"size": 12, "scale": "1/255", "mean": MEAN, "std": STD, "resize_size": 14}
DECLARED = Preprocess((12, 12), resize_size=(14, 14), scale=1 / 255, mean=tuple(MEAN), std=tuple(STD))


def export(tmp_path: Path, net: nn.Module, **options: Any) -> edgeexit.Bundle:
    return edgeexit.export(net, tmp_path / "n.edgeexit", layouts=("fused", "chain"), overwrite=True, **options)


def torchvision_steps() -> list[Any]:
    return [
        step("Resize", size=256, interpolation=Interpolation.BILINEAR, max_size=None, antialias=True),
        step("CenterCrop", size=(224, 224)),
        step("ToTensor"),
        step("Normalize", mean=MEAN, std=torch.tensor(STD, dtype=torch.float64)),
    ]


def test_torchvision_transforms() -> None:
    first = torchvision_steps()
    second = [
        step("ToImage"), step("RGB"), step("Resize", size=[256], interpolation=2, max_size=None, antialias=True),
        step("CenterCrop", size=[224, 224]), step("ToDtype", dtype=torch.float32, scale=True), first[3],
        step("ToPureTensor"),
    ]  # fmt: skip
    third = [first[0], first[1], step("PILToTensor"), step("ConvertImageDtype", dtype=torch.float32), first[3]]
    for steps in (first, second, third, [step("Compose", transforms=first[:2]), nn.Sequential(), *first[2:]]):
        assert fitted(from_transforms(step("Compose", transforms=steps))) == IMAGENET
    preset = step(
        "ImageClassification",
        crop_size=[224],
        resize_size=[256],
        mean=MEAN,
        std=STD,
        interpolation=Interpolation.BILINEAR,
    )
    assert fitted(from_transforms(preset)) == IMAGENET
    assert (
        fitted(from_transforms(functools.partial(lambda **_: preset, crop_size=224))) == IMAGENET
    )  # weights.transforms
    weights = type("ResNet50_Weights", (), {"transforms": staticmethod(lambda: preset)})()
    assert fitted(from_transforms(weights)) == IMAGENET
    grey = [step("Grayscale", num_output_channels=1), step("Resize", size=(28, 28), interpolation=3), step("ToTensor")]
    assert fitted(from_transforms(grey), ("n", 1, 28, 28)) == Preprocess(
        (28, 28), color="grey", resize="stretch", interpolation="bicubic", scale=1 / 255
    )
    pixels = [
        step("PILToTensor"),
        step("ToDtype", dtype=torch.float32, scale=False),
        step("Normalize", mean=[1.0], std=[2.0]),
    ]
    assert fitted(from_transforms(pixels)) == Preprocess((224, 224), resize="none", mean=(1.0,), std=(2.0,))
    assert fitted(from_transforms([step("CenterCrop", size=224), step("ToTensor")])).resize == "crop"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step("RandomHorizontalFlip")], "RandomHorizontalFlip is not understood; augmentation belongs to training"),
        ([step("Lambda")], "Lambda is not understood"),
        (lambda: torchvision_steps() + torchvision_steps()[3:], "a second Normalize"),
        (lambda: [*torchvision_steps()[3:], step("ToTensor")], "ToTensor after Normalize"),
        (lambda: torchvision_steps()[:2] + torchvision_steps()[:1], "a Resize after another"),
        ([step("Resize", size=9, max_size=12)], "max_size"),
        ([step("ToTensor"), step("Resize", size=9, antialias=False)], "without antialiasing"),
        ([step("Resize", size=9, interpolation=Interpolation.HAMMING)], "HAMMING"),
        ([step("Resize", size=9), step("CenterCrop", size=12)], "CenterCrop 12x12 of what"),
        ([step("Grayscale", num_output_channels=3)], "Grayscale to several"),
        ([step("ToDtype", dtype=torch.int32)], "ToDtype to int32"),
        ([step("Normalize", mean=["a"], std=[1])], "expected numbers"),
    ],
)
def test_transforms_that_are_not_understood(steps: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_transforms(steps() if callable(steps) else steps)


def test_real_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = pytest.importorskip("PIL.Image")
    real = transforms.Compose(
        [transforms.Resize(40), transforms.CenterCrop(32), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    p = fitted(from_transforms(real), ("n", 3, 32, 32))
    picture = image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 87, 3)).astype(np.uint8))
    found = PictureInput("x", p, ("n", 3, 32, 32), "float32").one(picture)
    assert np.abs(found[0] - real(picture).numpy()).max() < 1.5 / 255 / min(STD)


HUGGING_FACE = {
    "do_resize": True, "size": {"shortest_edge": 256}, "resample": 2, "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": MEAN, "image_std": STD, "image_processor_type": "X",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, IMAGENET),
        ({"size": 256, "crop_size": 224}, IMAGENET),
        (
            {"size": {"height": 224, "width": 224}, "do_center_crop": False},
            {"resize": "stretch", "resize_size": (224, 224)},
        ),
        ({"size": 224, "do_center_crop": False}, {"resize": "stretch", "resize_size": (224, 224)}),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "do_center_crop": None, "crop_size": None}, {}),
        ({"resample": 3}, {"interpolation": "bicubic"}),
        ({"do_flip_channel_order": True, "do_normalize": False}, {"color": "BGR", "mean": (0.0,), "std": (1.0,)}),
        ({"do_rescale": False, "do_normalize": False}, {"scale": 1.0, "mean": (0.0,), "std": (1.0,)}),
        ({"do_resize": False}, {"resize": "crop", "resize_size": None, "interpolation": "bilinear"}),
    ],
)  # fmt: skip
def test_hugging_face(change: dict[str, Any], expected: Any) -> None:
    import dataclasses

    document = {**HUGGING_FACE, **change}
    assert is_foreign(document)
    expected = expected if isinstance(expected, Preprocess) else dataclasses.replace(IMAGENET, **expected)
    assert fitted(from_foreign(document, "f")) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_pad": True}, "'do_pad' is not understood"),
        ({"rescale_offset": True}, "'rescale_offset' is not understood"),
        ({"resample": 5}, "interpolation 5"),
        ({"size": {"longest_edge": 800}}, "size: expected a size"),
        ({"do_center_crop": False, "crop_size": None}, "sizes vary"),
        ({"image_mean": "a"}, "image_mean: expected a number"),
    ],
)
def test_hugging_face_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_foreign({**HUGGING_FACE, **change}, "f")


def test_real_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    image = pytest.importorskip("PIL.Image")
    y, x = np.mgrid[0:61, 0:87]
    smooth = np.dstack([128 + 100 * np.sin(x / 25 + k) * np.cos(y / 20 - k) for k in range(3)])
    picture = image.fromarray(smooth.astype(np.uint8))
    tried = 0
    for name, options, size in (
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}, 32),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}, 28),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.875}, 32),
    ):
        try:
            processor = getattr(transformers, name)(**options)
            expected = processor(picture, return_tensors="np")["pixel_values"]
        except ImportError:  # some versions need torchvision for all of them
            continue
        tried += 1
        fields = from_foreign(processor.to_dict(), name)
        found = PictureInput("x", fitted(fields, ("n", 3, size, size)), ("n", 3, size, size), "float32").one(picture)
        assert found.shape == expected.shape
        assert np.median(np.abs(found - expected)) < 0.1, name  # their crops may begin one pixel earlier
    if not tried:
        pytest.skip("this transformers' image processors need torchvision")


def test_timm() -> None:
    config = {"input_size": [3, 224, 224], "mean": MEAN, "std": STD, "crop_pct": 0.875, "interpolation": "bilinear"}
    for document in (config, {"architecture": "x", "pretrained_cfg": {**config, "url": "x"}}):
        assert is_foreign(document) and fitted(from_foreign(document, "f")) == IMAGENET
    squashed = fitted(from_foreign({**config, "crop_mode": "squash", "crop_pct": 0.9, "interpolation": "bicubic"}, "f"))
    assert (squashed.resize, squashed.resize_size, squashed.interpolation) == ("stretch", (248, 248), "bicubic")
    for change, message in (
        ({"crop_mode": "border"}, "crop_mode 'border'"),
        ({"interpolation": "random"}, "interpolation 'random'"),
        ({"std": None}, "std: expected"),
    ):
        with pytest.raises(DataError, match=message):
            from_foreign({**config, **change}, "f")


@pytest.mark.parametrize("way", ["text", "fields", "object", "file", "by input", "transforms", "foreign file"])
def test_export_declares(way: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(SMALL))
    foreign = tmp_path / "preprocessor_config.json"
    foreign.write_text(json.dumps({**HUGGING_FACE, "size": {"shortest_edge": 14}, "crop_size": 12}))
    asked = {
        "text": "size=12,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,resize_size=14",
        "fields": SMALL,
        "object": DECLARED,
        "file": path,
        "by input": {"image": SMALL},
        "transforms": [
            step("Resize", size=14), step("CenterCrop", size=12), step("ToTensor"),
            step("Normalize", mean=MEAN, std=STD),
        ],
        "foreign file": str(foreign),
    }[way]  # fmt: skip
    bundle = export(tmp_path, Net(), preprocess=asked)
    assert bundle.manifest.preprocess == {"image": DECLARED}
    assert edgeexit.Bundle.open(bundle.path).manifest == bundle.manifest


def test_attached_to_the_module(tmp_path: Path) -> None:
    told: list[str] = []
    net = Net()
    net.preprocess = DECLARED
    assert export(tmp_path, net, progress=told.append).manifest.preprocess == {"image": DECLARED}
    assert any(line.startswith("preprocessing of 'image', of Net.preprocess: RGB NCHW, cover 14x14") for line in told)
    assert export(tmp_path, net, preprocess="none").manifest.preprocess == {}
    assert export(tmp_path, net, preprocess="unit").manifest.preprocess == {
        "image": Preprocess((12, 12), scale=1 / 255)
    }
    timm = Net()
    timm.pretrained_cfg = {
        "input_size": (3, 12, 12),
        "mean": MEAN,
        "std": STD,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    }
    assert export(tmp_path, timm).manifest.preprocess["image"].interpolation == "bicubic"
    wrapped = nn.Sequential(timm)
    wrapped.input_spec = timm.input_spec
    assert export(tmp_path, wrapped).manifest.preprocess["image"].resize_size == (13, 13)


def test_what_is_attached_and_not_understood_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    net = Net()
    net.transforms = [step("RandomCrop")]
    assert export(tmp_path, net, progress=told.append).manifest.preprocess == {}
    assert any(
        "note: Net.transforms is not declared for pictures: transforms: RandomCrop is not" in line for line in told
    )

    class Method(Net):
        def preprocess(self, x: Any) -> Any:
            return x

    told.clear()
    assert export(tmp_path, Method(), progress=told.append).manifest.preprocess == {}
    assert not any("preprocess" in line for line in told)


class ImageClassification(nn.Module):
    """As torchvision's, a module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.crop_size, self.resize_size, self.mean, self.std = [12], [14], MEAN, STD
        self.interpolation = Interpolation.BILINEAR

    def forward(self, x: Any) -> Any:
        return (x / 255 - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)


class Inside(Net):
    def forward(self, image: Any) -> Any:
        return super().forward(self.preprocess(image))


def test_a_preset_that_the_network_applies_itself_is_not_applied_twice(tmp_path: Path) -> None:
    told: list[str] = []
    beside, inside = Net(), Inside()
    beside.preprocess, inside.preprocess = ImageClassification(), ImageClassification()
    assert export(tmp_path, beside).manifest.preprocess == {"image": DECLARED}
    assert export(tmp_path, inside, progress=told.append).manifest.preprocess == {}
    assert any("Inside.preprocess is applied by the network itself" in line for line in told)


def test_pictures_answer_as_their_numbers(tmp_path: Path) -> None:
    net = Net()
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (64, 30, 20, 3)).astype(np.uint8)
    bundle = export(tmp_path, net, preprocess=DECLARED, data={"x": pictures}, labels=list("abcde"))
    assert bundle.manifest.ranges["image"].rows == 64
    numbers = network_rows(
        {"x": pictures}, [TensorSpec("image", "float32", ("batch", 3, 12, 12))], bundle.manifest.preprocess
    )
    assert numbers["x"].shape == (64, 3, 12, 12) and numbers["x"].dtype == np.float32
    with torch.no_grad():
        expected = net(torch.from_numpy(numbers["x"]))[1].numpy()
    for layout in ("fused", "chain"):
        engine = edgeexit.load(bundle, artifact=layout, warmup=0, policy=edgeexit.fixed_exit(1, 2))
        np.testing.assert_allclose(engine.run(pictures[0]).output, expected[0], atol=1e-5)
        np.testing.assert_allclose(engine.run_batch(pictures).outputs, expected, atol=1e-5)
        np.testing.assert_allclose(engine.record(pictures).outputs[1], expected, atol=1e-5)
        assert engine.run(pictures[0]).name == "abcde"[expected[0].argmax()]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("size=13", r"preprocessing of input 'image' .*: axis 2 of a picture in NCHW has 13"),
        ("input=other,scale=2", "'other', which is no input; the network takes image"),
        (["scale=2", "scale=3"], "stated twice"),
        ("imagenet,size=224", "has 224"),
        (object(), "object is not understood"),
        ("absent.json", "absent.json: cannot be read"),
    ],
)
def test_refused(asked: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        export(tmp_path, Net(), preprocess=asked)
    assert not (tmp_path / "n.edgeexit").exists()


def test_several_inputs_need_a_name(tmp_path: Path) -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.input_spec = {"left": ("float32", ("batch", 3, 12, 12)), "right": ("float32", ("batch", 3, 12, 12))}

        def forward(self, left: Any, right: Any) -> Any:
            return super().forward(left - right)

    with pytest.raises(DataError, match=r"which of the inputs \(left, right\)"):
        export(tmp_path, Two(), preprocess="unit")
    bundle = export(tmp_path, Two(), preprocess=["unit,input=left", "signed,input=right"])
    assert {n: p.mean for n, p in bundle.manifest.preprocess.items()} == {"left": (0.0,), "right": (1.0,)}
    engine = edgeexit.load(bundle, warmup=0)
    picture = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    left = (picture / 255).astype(np.float32).transpose(2, 0, 1)
    found = engine.run({"left": picture, "right": picture})
    np.testing.assert_allclose(found.output, engine.run({"left": left, "right": 2 * left - 1}).output, atol=1e-5)
