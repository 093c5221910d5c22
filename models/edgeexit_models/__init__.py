"""Multi-exit models: definitions, exits for models you have, losses and a small trainer. Needs torch.

>>> import torch
>>> from edgeexit_models import digits, exits
>>> [tuple(logits.shape) for logits in exits(digits(), torch.zeros(2, 1, 8, 8))]
[(2, 10), (2, 10), (2, 10)]
"""

from edgeexit_models.attach import MultiExit, attach
from edgeexit_models.augment import CropFlip
from edgeexit_models.corruptions import CORRUPTIONS, corrupt, corrupted_stream
from edgeexit_models.digits import Digits, digits
from edgeexit_models.dscnn import DSCNN, dscnn
from edgeexit_models.finetune import finetune
from edgeexit_models.heads import (
    HEADS,
    AvgMaxPoolLinear,
    DepthwiseSeparable,
    GridPoolLinear,
    MeanTokenLinear,
    PoolLinear,
    TokenLinear,
    make_head,
)
from edgeexit_models.losses import (
    GrowingDistillation,
    SelfDistillation,
    ShallowDeep,
    WeightedSum,
    sdn_weights,
    self_distillation,
    weighted_sum,
)
from edgeexit_models.measure import evaluate, predict
from edgeexit_models.mobilenet import MobileNetV1, mobilenet_025
from edgeexit_models.predicted_error import ErrorFit, PredictedError, fit_predicted_error, learned_scores
from edgeexit_models.protocol import HasInputSpec, InputSpec, MultiExitModule, exits
from edgeexit_models.resnet8 import ResNet8, resnet8, resnet8_cifar10
from edgeexit_models.resnet20 import ResNet20, resnet20
from edgeexit_models.train import Epoch, History, fit
from edgeexit_models.trecx import load_trecx

__all__ = [
    "CORRUPTIONS",
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
    "HasInputSpec",
    "History",
    "InputSpec",
    "MeanTokenLinear",
    "MobileNetV1",
    "MultiExit",
    "MultiExitModule",
    "PoolLinear",
    "PredictedError",
    "ResNet20",
    "ResNet8",
    "SelfDistillation",
    "ShallowDeep",
    "TokenLinear",
    "WeightedSum",
    "attach",
    "corrupt",
    "corrupted_stream",
    "digits",
    "dscnn",
    "evaluate",
    "exits",
    "fit",
    "finetune",
    "fit_predicted_error",
    "learned_scores",
    "load_trecx",
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
