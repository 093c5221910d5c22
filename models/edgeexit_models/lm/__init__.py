"""Small language models: a Llama-style decoder, training that gives it exits, and their quality. Needs torch.

>>> import torch
>>> from edgeexit_models.lm import LlamaLM, LMConfig
>>> model = LlamaLM(LMConfig(vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
...     num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64))
>>> [tuple(model.head(h).shape) for h in model.hidden(torch.tensor([[5, 7]]))]
[(1, 2, 300), (1, 2, 300), (1, 2, 300)]
"""

from edgeexit_models.lm.config import LMConfig
from edgeexit_models.lm.evaluate import ExitQuality, greedy, measure
from edgeexit_models.lm.heads import ExitHeads, HeadTuning, MLPMap, fit_maps, load_maps, save_maps
from edgeexit_models.lm.layerskip import LayerSkip, drop_probabilities, exit_weights, gradual, rotational
from edgeexit_models.lm.llama import LlamaLM
from edgeexit_models.lm.tokenizer import encode_all, load_tokenizer, train_bpe
from edgeexit_models.lm.trainer import Plan, Report, train
from edgeexit_models.lm.weights import from_hugging_face, load_lm, save_lm, to_hugging_face

__all__ = [
    "ExitHeads",
    "ExitQuality",
    "HeadTuning",
    "LMConfig",
    "LayerSkip",
    "LlamaLM",
    "MLPMap",
    "Plan",
    "Report",
    "drop_probabilities",
    "encode_all",
    "exit_weights",
    "fit_maps",
    "from_hugging_face",
    "gradual",
    "greedy",
    "load_lm",
    "load_maps",
    "load_tokenizer",
    "measure",
    "rotational",
    "save_lm",
    "save_maps",
    "to_hugging_face",
    "train",
    "train_bpe",
]
