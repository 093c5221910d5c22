"""Plain ResNet-8, an early-exit ensemble and QUTE on CIFAR-10: `python train.py cifar10.npz --out runs/qute`.

In: an npz with x_train, x_test `(n, 32, 32, 3)` uint8 and y_train, y_test `(n,)`.
Out, in the folder: per seed `<network>-<seed>.safetensors` and checkpoints (--resume goes on); metrics.json.
Every network gets the same pictures, epochs, batches and augmentation. With two or more seeds, the plain networks
together are measured as a deep ensemble, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

from edgeexit.calibrate.reliability import reliability
from edgeexit.calibrate.uncertainty import auroc, ensemble
from edgeexit.errors import DataError, EdgeExitError
from edgeexit_models.ensembles import exit_members, network_members
from edgeexit_models.losses import WeightedSum
from edgeexit_models.measure import as_floats
from edgeexit_models.qute import RESNET8_COSTS, QuteDeployed, QuteLoss, fit_qute, qute_resnet8
from edgeexit_models.resnet8 import ResNet8, resnet8_cifar10
from edgeexit_models.train import Epoch, fit


def sibling() -> ModuleType:
    """The recipe `resnet8-cifar10`, for its data, split and augmentation."""
    spec = importlib.util.spec_from_file_location(
        "recipe_resnet8", Path(__file__).parents[1] / "resnet8-cifar10" / "train.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BASE = sibling()
SPLIT_SEED = 0
"""One split for all seeds, or the networks of a deep ensemble would have seen each other's held-out pictures."""
NETWORKS = ("plain", "exits", "qute")
# Every loss's weights sum to about 1, so that SGD takes the same steps and weight decay weighs the same.
PLAIN_LOSS = WeightedSum((0.0, 0.0, 1.0))  # the early heads stay as they were made and are not counted
EXITS_LOSS = WeightedSum((1 / 3, 1 / 3, 1 / 3))
QUTE_LOSS = QuteLoss(RESNET8_COSTS, scale=1 / 8)


def train_one(name: str, seed: int, train: Any, args: argparse.Namespace) -> nn.Module:
    """Trains the network called `name`, or takes it from its finished checkpoint."""

    def report(epoch: Epoch) -> None:
        now = time.strftime("%H:%M:%S")
        print(
            f"{now} {name} {seed} epoch {epoch.number + 1:3d}  loss {epoch.loss:.4f}  {epoch.seconds:.0f} s", flush=True
        )

    options: dict[str, Any] = {
        "epochs": args.epochs, "seed": seed, "batch_size": args.batch_size, "weight_decay": BASE.WEIGHT_DECAY,
        "lr": args.lr, "augment": BASE.AUGMENT, "checkpoint": args.out / f"{name}-{seed}.pt", "resume": args.resume,
        "progress": report, "threads": args.threads,
    }  # fmt: skip
    torch.manual_seed(seed)
    trained: nn.Module
    if name == "qute":
        qute = qute_resnet8()
        qute.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.8 times faster on CPUs
        fit_qute(qute, train, loss=QUTE_LOSS, **options)
        trained = qute.deployed()
    else:
        trained = resnet8_cifar10()
        trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fit(trained, train, loss=PLAIN_LOSS if name == "plain" else EXITS_LOSS, **options)
    weights = {key: value.contiguous() for key, value in trained.state_dict().items()}
    BASE.write(args.out / f"{name}-{seed}.safetensors", safetensors.torch.save(weights))
    return trained


def members(name: str, net: nn.Module, x: npt.NDArray[np.uint8]) -> Tensor:
    """Probabilities `(n, members, classes)` of whatever the network has to say."""
    if isinstance(net, QuteDeployed):
        with torch.no_grad():
            return torch.cat([net(as_floats(torch.as_tensor(x[at : at + 250]))) for at in range(0, len(x), 250)])
    return network_members([net], x) if name == "plain" else exit_members(net, x)


def parameters(name: str, net: nn.Module) -> int:
    """Parameters that the device stores."""
    unused = sum(p.numel() for p in net.heads[:-1].parameters()) if name == "plain" and isinstance(net, ResNet8) else 0
    return sum(p.numel() for p in net.parameters()) - unused


def measure(probabilities: Tensor, labels: npt.NDArray[np.int64]) -> dict[str, float | None]:
    """The figures of one network or ensemble on the test pictures."""
    found = ensemble(probabilities.numpy())
    table = reliability(found.mean, labels)
    right = found.mean.argmax(1) == labels
    mixed = bool(0 < right.mean() < 1)  # with rows of one kind there is nothing to tell apart
    return {
        "accuracy": table.accuracy, "nll": table.nll, "brier": table.brier, "ece": table.ece,
        "auroc_right_wrong": auroc(found.confidence, right) if mixed else None,
        "auroc_right_wrong_entropy": auroc(-found.uncertainty, right) if mixed else None,
    }  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Loads, trains, measures and writes everything."""
    if len(set(args.seeds)) < len(args.seeds):
        raise DataError(f"seeds {args.seeds}: each may stand once")
    train, (x, y) = BASE.load(args.data)
    train, held = BASE.hold_out(train, SPLIT_SEED)
    per_seed: dict[str, dict[str, Any]] = {}
    plain = []
    for seed in args.seeds:
        row = per_seed[str(seed)] = {}
        for name in NETWORKS:
            net = train_one(name, seed, train, args)
            said = members(name, net, x)
            row[name] = {**measure(said, y), "parameters": parameters(name, net)}
            if name == "plain":
                plain.append((said, row[name]["parameters"]))
    result = {
        "per_seed": per_seed,
        "deep_ensemble": {
            **measure(torch.cat([said for said, _ in plain], 1), y), "parameters": sum(count for _, count in plain),
        } if len(plain) > 1 else None,
        "split": {"train": len(train[0]), "held_out": len(held[0]), "test": len(x)},
        "settings": {
            "epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr, "weight_decay": BASE.WEIGHT_DECAY,
            "losses": {"plain": repr(PLAIN_LOSS), "exits": repr(EXITS_LOSS), "qute": repr(QUTE_LOSS)},
            "augment": repr(BASE.AUGMENT), "split_seed": SPLIT_SEED, "threads": args.threads,
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": platform.machine(),
    }  # fmt: skip
    BASE.write(args.out / "metrics.json", (json.dumps(result, indent=1) + "\n").encode())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, weights and metrics")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each trains three networks")
    parser.add_argument("--epochs", type=int, default=40, help="of every network")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1, help="highest learning rate of the cycle")
    parser.add_argument("--threads", type=int, help="torch threads; all cores when left out")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoints")
    try:
        run(parser.parse_args())
    except EdgeExitError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
