"""Early-exit CTC speech encoders: definitions, the joint loss and training.

>>> import torch
>>> from edgeexit_models.speech import asr_digits
>>> exits = asr_digits()(torch.zeros(1, 128, 40), torch.tensor([128]))
>>> [tuple(e["output"].shape) for e in exits]
[(1, 32, 11), (1, 32, 11), (1, 32, 11), (1, 32, 11)]
"""

from __future__ import annotations

from edgeexit_models.speech.batch import Batch, make_batch
from edgeexit_models.speech.config import ConformerConfig
from edgeexit_models.speech.conformer import (
    EarlyExitConformer,
    conformer_edge,
    conformer_paper,
    single_exit,
)
from edgeexit_models.speech.corpus import Batches, Corpus, InMemory
from edgeexit_models.speech.digits import asr_digits, asr_digits_sound, asr_digits_streaming
from edgeexit_models.speech.keywords import KeywordFeatures, Keywords, dscnn_sound
from edgeexit_models.speech.loss import exit_losses, joint_ctc
from edgeexit_models.speech.measure import answers, error_rates, text_errors
from edgeexit_models.speech.sound import LogMel, SoundConformer
from edgeexit_models.speech.splitformer import Splitformer, splitformer_paper
from edgeexit_models.speech.streaming import StreamingConformer
from edgeexit_models.speech.trainer import Noam, OneCycle, fit_ctc

__all__ = [
    "Batch",
    "Batches",
    "ConformerConfig",
    "Corpus",
    "EarlyExitConformer",
    "InMemory",
    "KeywordFeatures",
    "Keywords",
    "LogMel",
    "Noam",
    "OneCycle",
    "SoundConformer",
    "Splitformer",
    "StreamingConformer",
    "answers",
    "asr_digits",
    "asr_digits_sound",
    "asr_digits_streaming",
    "conformer_edge",
    "conformer_paper",
    "dscnn_sound",
    "error_rates",
    "exit_losses",
    "fit_ctc",
    "joint_ctc",
    "make_batch",
    "single_exit",
    "splitformer_paper",
    "text_errors",
]
