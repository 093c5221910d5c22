"""Plain ResNet-8, ensembles and QUTE on CIFAR-10: `python train.py cifar10.npz --out runs/qute`.

Input: an npz with x_train, x_test `(n, 32, 32, 3)` uint8 and y_train, y_test `(n,)`.
Output, in the folder: per seed and network checkpoints (--resume continues), weights and a bundle; metrics.json.
Every network gets the same pictures, epochs, batches and augmentation.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import edgeexit
from edgeexit.bench.compare import Figures, compare
from edgeexit.common.environment import environment
from edgeexit.errors import DataError
from edgeexit_models.data.optdigits import load_optdigits
from edgeexit_models.definitions.ensembles import DeepEnsemble, ExitEnsemble
from edgeexit_models.definitions.qute import qute_resnet8
from edgeexit_models.definitions.resnet8 import resnet8_cifar10
from edgeexit_models.training.losses import WeightedSum
from edgeexit_models.training.qute import RESNET8_COSTS, QuteLoss, fit_qute
from edgeexit_models.training.trainer import Epoch, fit
from recipes import cifar10, common
from recipes.corruptions import CORRUPTIONS, corrupted_stream

SPLIT_SEED = 0
"""One split for all seeds, or the networks of a deep ensemble would have seen each other's held-out pictures."""
NETWORKS = ("plain", "qute", "exits")
PLAIN_LOSS = WeightedSum((0.0, 0.0, 1.0))  # the early heads are not trained and not counted
EXITS_LOSS = WeightedSum((1 / 3, 1 / 3, 1 / 3))
TIMED = 400
"""Interleaved rounds of the latency."""


def train_one(name: str, seed: int, train: Any, args: argparse.Namespace) -> nn.Module:
    """Trains the network called `name`, or takes it from its finished checkpoint; one exit, as it is deployed."""

    def report(epoch: Epoch) -> None:
        common.log(f"{name} {seed} epoch {epoch.number + 1:3d}  loss {epoch.loss:.4f}  {epoch.seconds:.0f} s")

    options: dict[str, Any] = {
        "epochs": args.epochs, "seed": seed, "batch_size": args.batch_size, "weight_decay": cifar10.WEIGHT_DECAY,
        "lr": args.lr, "augment": cifar10.AUGMENT, "checkpoint": args.out / f"{name}-{seed}.pt", "resume": args.resume,
        "progress": report, "threads": args.threads,
    }  # fmt: skip
    torch.manual_seed(seed)
    if name == "qute":
        qute = qute_resnet8()
        qute.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.8 times faster on CPUs
        fit_qute(qute, train, loss=QuteLoss(RESNET8_COSTS, scale=args.qute_scale), **options)
        return qute.deployed()
    net = resnet8_cifar10()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(net, train, loss=PLAIN_LOSS if name == "plain" else EXITS_LOSS, **options)
    return DeepEnsemble([net]) if name == "plain" else ExitEnsemble(net)


def bundled(name: str, net: nn.Module, out: Path) -> edgeexit.Engine:
    """Writes weights and bundle, and loads the bundle: what is measured is what ships."""
    common.write_weights(out / f"{name}.safetensors", net)
    bundle = edgeexit.export(net.to(memory_format=torch.contiguous_format), out / f"{name}.edgeexit", exits=["answer"],  # type: ignore[call-overload]
                             layouts=("fused", "chain"), overwrite=True)  # fmt: skip
    return edgeexit.load(bundle, artifact="chain", exit=-1, warmup=0)


def digits_as_pictures() -> npt.NDArray[np.float32]:
    """Inputs of no class of CIFAR-10: the 1,797 handwritten test digits of the package, `(n, 3, 32, 32)`, 0..255."""
    small = load_optdigits().x_test.reshape(-1, 8, 8)
    grey = np.repeat(np.repeat(small, 4, 1), 4, 2) * (255 / 16)
    return np.repeat(grey[:, None], 3, 1).astype(np.float32)


def table(figures: tuple[Figures, ...]) -> dict[str, Any]:
    """Figures by network."""
    return {f.name: {k: v for k, v in asdict(f).items() if k != "name"} for f in figures}


def quick(engines: Mapping[str, edgeexit.Engine], x: npt.NDArray[np.uint8], y: npt.NDArray[np.int64]) -> Any:
    """Figures without corruptions and timing."""
    return table(compare(engines, (x.astype(np.float32), y), rounds=0))


def whole(engines: Mapping[str, edgeexit.Engine], x: npt.NDArray[np.uint8], y: npt.NDArray[np.int64]) -> Any:
    """All figures."""
    streams = {name: corrupted_stream(x, y, name) for name in CORRUPTIONS}
    corrupted = {name: (worse.astype(np.float32), labels) for name, (worse, labels) in streams.items()}
    outside = {"digits": digits_as_pictures()}
    return table(compare(engines, (x.astype(np.float32), y), outside=outside, corrupted=corrupted, rounds=TIMED))


def run(args: argparse.Namespace) -> None:
    """Loads, trains, measures and writes everything."""
    if len(set(args.seeds)) < len(args.seeds):
        raise DataError(f"seeds {args.seeds}: each may stand once")
    train, (x, y) = cifar10.load(args.data)
    train, held = cifar10.hold_out(train, SPLIT_SEED)
    train = (train[0][: args.rows], train[1][: args.rows])
    nets: dict[str, nn.Module] = {}
    for seed in args.seeds:
        for name in args.networks:
            if name != "exits" or seed == args.seeds[0]:
                nets[f"{name}-{seed}"] = train_one(name, seed, train, args)
    plain = [net for name, net in nets.items() if name.startswith("plain")]
    if len(plain) > 1:
        nets["deep"] = DeepEnsemble([net.members[0] for net in plain])  # type: ignore[misc]
    engines = {name: bundled(name, net, args.out) for name, net in nets.items()}
    result = {
        "held_out": quick(engines, *held),
        "test": None if args.held_out_only else whole(engines, x, y),
        "split": {"train": len(train[0]), "held_out": len(held[0]), "test": len(x)},
        "settings": {
            "epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr, "weight_decay": cifar10.WEIGHT_DECAY,
            "losses": {
                "plain": repr(PLAIN_LOSS), "exits": repr(EXITS_LOSS),
                "qute": repr(QuteLoss(RESNET8_COSTS, scale=args.qute_scale)),
            },
            "augment": repr(cifar10.AUGMENT), "split_seed": SPLIT_SEED, "threads": args.threads, "seeds": args.seeds,
        },
        "environment": environment(next(iter(engines.values())).backend.version(), 1),
        **common.versions(),
    }  # fmt: skip
    common.write_json(args.out / "metrics.json", result)


def main() -> None:
    """The command line."""
    parser = common.argument_parser(__doc__)
    parser.add_argument("data", type=Path, help="npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, weights, bundles and metrics")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="the exit ensemble gets the first one only")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=40, help="of every network")
    parser.add_argument("--batch-size", type=int, default=128)
    common.add_learning_rate(parser, 0.1)
    parser.add_argument("--qute-scale", type=float, default=1.0, help="factor on QUTE's loss weights")
    parser.add_argument("--rows", type=int, help="train on the first rows only, to choose settings")
    parser.add_argument("--held-out-only", action="store_true", help="do not use the test pictures")
    parser.add_argument("--threads", type=int, help="torch threads [default: all cores]")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoints in the folder")
    common.run_command(run, parser.parse_args())


if __name__ == "__main__":
    main()
