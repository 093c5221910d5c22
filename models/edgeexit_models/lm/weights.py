"""A language model in a folder: config.json and model.safetensors, as transformers' LlamaForCausalLM has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from edgeexit.common.files import write_atomic
from edgeexit.errors import ModelError
from edgeexit_models.lm.checkpoint_files import end_tokens, read_object
from edgeexit_models.lm.config import LMConfig
from edgeexit_models.lm.llama import LlamaLM

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_PREFIX, _HEAD, _FREQUENCIES = "model.", "lm_head.weight", "rotary_emb.inv_freq"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def to_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> LlamaForCausalLM's: all but the head's begin with `model.`."""
    return {name if name == _HEAD else _PREFIX + name: value for name, value in state.items()}


def from_hugging_face(state: Mapping[str, Tensor], config: LMConfig) -> dict[str, Tensor]:
    """LlamaForCausalLM's names -> ours. A tied head may be there as a copy; it is left out.

    Raises:
        ModelError: a tensor under a name that is not a LlamaForCausalLM's.
    """
    ours = {}
    for name, value in state.items():
        if name == _HEAD:
            if not config.tie_word_embeddings:
                ours[name] = value
        elif name.endswith(_FREQUENCIES):  # old files carry this constant
            continue
        elif name.startswith(_PREFIX):
            ours[name.removeprefix(_PREFIX)] = value
        else:
            raise ModelError(f"tensor {name!r} is not of a LlamaForCausalLM: names begin with {_PREFIX!r}")
    return ours


def save_lm(folder: Path, model: LlamaLM, dtype: torch.dtype = torch.float32) -> None:
    """Writes both files, each whole or not at all.

    Args:
        folder: created if missing.
        dtype: of the stored weights; float16 halves the file.
    """
    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    write_atomic(folder / WEIGHTS, safetensors.torch.save(to_hugging_face(state), {"format": "pt"}))
    config = model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    write_atomic(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def load_lm(folder: Path, notice: Callable[[str], None] = lambda text: None) -> LlamaLM:
    """Reads the folder, with weights in one file or in several with an index; they become float32,
    whatever they are stored in. The model is in evaluation mode.

    Args:
        folder: with config.json and safetensors; generation_config.json and the tokenizer's files are read too.
        notice: called with a sentence for each setting that is not read, and where two files disagree.

    Raises:
        ModelError: a file is missing or damaged, the config asks for what `LMConfig` refuses, or names and shapes do
            not fit it; an adapter beside the weights.
    """
    if (folder / ADAPTER).exists():
        raise ModelError(
            f"{folder / ADAPTER}: an adapter lies beside the weights, which would change them: merge it into the "
            "weights (peft's merge_and_unload), or take the file away"
        )
    content = read_object(folder / CONFIG)
    config = LMConfig.from_dict(content, notice)
    ends = end_tokens(folder, content, config.vocab_size, notice)
    config = replace(config, eos_token_id=ends[0] if len(ends) == 1 else ends or None)
    stored = _stored(folder)
    if config.tie_word_embeddings and _own_head(stored):
        notice(f"{CONFIG}: the head is the embedding (tie_word_embeddings), but the weights hold another one: it is "
               "used, as in transformers")  # fmt: skip
        config = replace(config, tie_word_embeddings=False)
    _check_frequencies(stored, config, notice)
    return filled(config, from_hugging_face(stored, config), f"{folder / WEIGHTS}: does not fit {CONFIG}")


def _own_head(stored: Mapping[str, Tensor]) -> bool:
    head, table = stored.get(_HEAD), stored.get(f"{_PREFIX}embed_tokens.weight")
    return head is not None and table is not None and not torch.equal(head, table)


def _check_frequencies(stored: Mapping[str, Tensor], config: LMConfig, notice: Callable[[str], None]) -> None:
    """Old files carry RoPE's frequencies; transformers computes them anew, and so does `LlamaLM`."""
    even = torch.arange(0, config.head_size, 2, dtype=torch.float32)
    expected = config.rope_theta ** (-even / config.head_size)
    for name, value in stored.items():
        if not name.endswith(_FREQUENCIES):
            continue
        if value.shape != expected.shape or not torch.allclose(value.float(), expected, rtol=0.01):  # may be bfloat16
            notice(f"tensor {name} is not RoPE with a base of {config.rope_theta:g}; it is passed over, as in "
                   "transformers")  # fmt: skip
            return


def filled(config: LMConfig, state: Mapping[str, Tensor], wrong: str) -> LlamaLM:
    """The network with these weights, as float32 and in evaluation mode.

    Args:
        config: its sizes. Memory is allocated only after they have been compared with the weights.
        state: by our names.
        wrong: how the message begins where they do not fit.

    Raises:
        ModelError: a tensor is missing, of another shape, or not wanted.
    """
    with torch.device("meta"):
        expected = LlamaLM(config).state_dict()
    odd = [
        f"{name} {tuple(state[name].shape) if name in state else 'missing'}"
        for name, value in expected.items()
        if name not in state or state[name].shape != value.shape
    ] + [f"{name} not wanted" for name in state.keys() - expected.keys()]
    if odd:
        raise ModelError(f"{wrong}: {'; '.join(sorted(odd)[:3])}")
    with torch.random.fork_rng(devices=[]):  # starting weights are overwritten: leave the caller's chance alone
        model = LlamaLM(config)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval()


def _stored(folder: Path) -> dict[str, Tensor]:
    """The tensors of the one file, or of those that an index names."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        places = read_object(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(n, str) for n in places.values()):
            raise ModelError(f"{folder / INDEX}: without a weight_map of file names")
        names = sorted({*places.values()})
        if invalid := [n for n in names if Path(n).name != n or not n.endswith(".safetensors")]:
            raise ModelError(f"{folder / INDEX}: names {invalid[0]!r:.80}, expected safetensors files beside it")
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            part = safetensors.torch.load_file(folder / name)
        except (OSError, safetensors.SafetensorError) as e:
            raise ModelError(f"{folder / name}: cannot be read as safetensors ({e})") from e
        if twice := sorted(part.keys() & tensors.keys()):
            raise ModelError(f"{folder / name}: tensor {twice[0]!r:.80} stands in another of the files, too")
        if whole := [n for n, value in part.items() if value.dtype not in _FLOATS]:
            raise ModelError(
                f"{folder / name}: tensor {whole[0]!r:.80} holds {part[whole[0]].dtype}, expected float32, float16 or "
                "bfloat16: quantized weights are not read; export the original"
            )
        tensors |= part
    return tensors
