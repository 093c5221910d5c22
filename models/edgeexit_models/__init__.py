"""Multi-exit models: definitions, exits for models you have, losses and a small trainer. Needs torch.

>>> import torch
>>> from edgeexit_models import digits, exits
>>> [tuple(logits.shape) for logits in exits(digits(), torch.zeros(2, 1, 8, 8))]
[(2, 10), (2, 10), (2, 10)]
"""

from edgeexit_models.definitions.digits import Digits, digits
from edgeexit_models.definitions.dscnn import DSCNN, dscnn
from edgeexit_models.definitions.heads import (
    HEADS,
    AvgMaxPoolLinear,
    DepthwiseSeparable,
    GridPoolLinear,
    MeanTokenLinear,
    PoolLinear,
    TokenLinear,
    make_head,
)
from edgeexit_models.definitions.mobilenet import MobileNetV1, mobilenet_025
from edgeexit_models.definitions.resnet8 import ResNet8, resnet8, resnet8_cifar10
from edgeexit_models.definitions.resnet20 import ResNet20, resnet20
from edgeexit_models.protocol import InputSpec, exits
from edgeexit_models.training.augment import CropFlip
from edgeexit_models.training.finetune import finetune
from edgeexit_models.training.losses import (
    GrowingDistillation,
    SelfDistillation,
    ShallowDeep,
    WeightedSum,
    sdn_weights,
    self_distillation,
    weighted_sum,
)
from edgeexit_models.training.measure import evaluate, predict
from edgeexit_models.training.predicted_error import ErrorFit, fit_predicted_error, learned_scores
from edgeexit_models.training.trainer import Epoch, History, fit
from edgeexit_models.wrappers.attach import MultiExit, attach
from edgeexit_models.wrappers.predicted_error import PredictedError

__all__ = [
    "DSCNN",
    "HEADS",
    "AvgMaxPoolLinear",
    "CropFlip",
    "DepthwiseSeparable",
    "Digits",
    "Epoch",
    "ErrorFit",
    "GridPoolLinear",
    "GrowingDistillation",
    "History",
    "InputSpec",
    "MeanTokenLinear",
    "MobileNetV1",
    "MultiExit",
    "PoolLinear",
    "PredictedError",
    "ResNet20",
    "ResNet8",
    "SelfDistillation",
    "ShallowDeep",
    "TokenLinear",
    "WeightedSum",
    "attach",
    "digits",
    "dscnn",
    "evaluate",
    "exits",
    "fit",
    "finetune",
    "fit_predicted_error",
    "learned_scores",
    "make_head",
    "mobilenet_025",
    "predict",
    "resnet20",
    "resnet8",
    "resnet8_cifar10",
    "sdn_weights",
    "self_distillation",
    "weighted_sum",
]
