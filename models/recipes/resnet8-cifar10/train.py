"""Train the three-exit ResNet-8 on CIFAR-10: `python train.py cifar10.npz --out runs/resnet8`.

In: an npz with x_train, x_test `(n, 32, 32, 3)` uint8 and y_train, y_test `(n,)`.
Out, in the folder: checkpoint.pt (after every epoch; --resume goes on), resnet8-cifar10.safetensors,
metrics.json. The network takes float32 pixels 0..255 `(batch, 3, 32, 32)`; its normalisation is inside.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from edgeexit.errors import DataError, EdgeExitError
from edgeexit_models.definitions.resnet8 import resnet8_cifar10
from edgeexit_models.training.augment import CropFlip
from edgeexit_models.training.losses import SelfDistillation
from edgeexit_models.training.measure import evaluate
from edgeexit_models.training.trainer import Epoch, History, fit

HELD_OUT = 5_000
LOSS = SelfDistillation(weights=(0.4, 0.6, 1.0), temperature=3.0, alpha=0.5)
AUGMENT = CropFlip(pad=4, fill=121.0)
WEIGHT_DECAY = 2e-4

Split = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Pictures `(n, 3, 32, 32)` and classes `(n,)`."""


def load(path: Path) -> tuple[Split, Split]:
    """Train and test of the npz, channels first.

    Raises:
        DataError: the file is not the npz described at the top.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as e:
        raise DataError(f"{path}: need an npz with x_train, y_train, x_test, y_test ({e})") from e
    for name in ("x_train", "x_test"):
        if arrays[name].dtype != np.uint8 or arrays[name].shape[1:] != (32, 32, 3):
            found = f"{arrays[name].dtype} {arrays[name].shape}"
            raise DataError(f"{path}: {name} is {found}, expected uint8 (n, 32, 32, 3)")
    if len(arrays["x_train"]) <= HELD_OUT:
        raise DataError(f"{path}: {len(arrays['x_train'])} training pictures, need more than the {HELD_OUT} held out")

    def split(part: str) -> Split:
        x = np.ascontiguousarray(arrays[f"x_{part}"].transpose(0, 3, 1, 2))
        return x, arrays[f"y_{part}"].reshape(-1).astype(np.int64)

    return split("train"), split("test")


def hold_out(data: Split, seed: int) -> tuple[Split, Split]:
    """Splits off 5,000 random pictures that training never sees, for design and calibration."""
    order = np.random.default_rng(seed).permutation(len(data[0]))
    kept, held = np.sort(order[HELD_OUT:]), np.sort(order[:HELD_OUT])
    return (data[0][kept], data[1][kept]), (data[0][held], data[1][held])


def write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def save_holdout(path: Path, held: Split) -> None:
    """`x` (n, 3, 32, 32) float32 0..255 and `y` (n,), as `edgeexit calibrate` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez_compressed(file, x=held[0].astype(np.float32), y=held[1])


def metrics(
    history: History, args: argparse.Namespace, held: Split, test: Split, model: torch.nn.Module
) -> dict[str, Any]:
    """What the run did and how good the network is."""
    return {
        "accuracy": {"held_out": evaluate(model, *held), "test": evaluate(model, *test)},
        "split": {"train": args.train_size, "held_out": len(held[0]), "test": len(test[0])},
        "settings": {
            "seed": args.seed, "epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr,
            "weight_decay": WEIGHT_DECAY,
            "loss": repr(LOSS), "augment": repr(AUGMENT), "threads": args.threads,
        },
        "seconds": sum(epoch.seconds for epoch in history.epochs),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": platform.machine(),
        "history": [asdict(epoch) for epoch in history.epochs],
    }  # fmt: skip


def report(epoch: Epoch) -> None:
    """One line per epoch."""
    shares = " ".join(f"{share:.4f}" for share in epoch.accuracy or ())
    now = time.strftime("%H:%M:%S")
    print(
        f"{now} epoch {epoch.number + 1:3d}  loss {epoch.loss:.4f}  held-out {shares}  {epoch.seconds:.0f} s",
        flush=True,
    )


def run(args: argparse.Namespace) -> None:
    """Loads, trains, measures and writes everything."""
    train, test = load(args.data)
    train, held = hold_out(train, args.seed)
    args.train_size = len(train[0])
    if args.holdout is not None:
        save_holdout(args.holdout, held)
    torch.manual_seed(args.seed)
    model = resnet8_cifar10()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.8 times faster on CPUs
    history = fit(
        model, train, epochs=args.epochs, seed=args.seed, batch_size=args.batch_size, lr=args.lr, loss=LOSS,
        weight_decay=WEIGHT_DECAY, augment=AUGMENT, checkpoint=args.out / "checkpoint.pt", resume=args.resume,
        progress=report, validation=held, threads=args.threads,
    )  # fmt: skip
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    write(args.out / "resnet8-cifar10.safetensors", safetensors.torch.save(weights))
    result = metrics(history, args, held, test, model)
    write(args.out / "metrics.json", (json.dumps(result, indent=1) + "\n").encode())
    print("test accuracy per exit:", *(f"{share:.4f}" for share in result["accuracy"]["test"]))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, weights and metrics")
    parser.add_argument("--holdout", type=Path, help="also write the 5,000 held-out pictures to this npz (x, y)")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1, help="highest learning rate of the cycle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="torch threads; all cores when left out")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    try:
        run(parser.parse_args())
    except EdgeExitError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
