"""A language model in a folder: config.json and model.safetensors, as transformers' LlamaForCausalLM has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from edgeexit.errors import ModelError
from edgeexit.files import write_atomic
from edgeexit_models.lm.config import LMConfig
from edgeexit_models.lm.llama import LlamaLM

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PREFIX, _HEAD = "model.", "lm_head.weight"


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
        elif name.endswith("rotary_emb.inv_freq"):  # old files carry this constant
            continue
        elif name.startswith(_PREFIX):
            ours[name.removeprefix(_PREFIX)] = value
        else:
            raise ModelError(f"tensor {name!r} is not of a LlamaForCausalLM: names begin with {_PREFIX!r}")
    return ours


def save_lm(folder: Path, model: LlamaLM, dtype: torch.dtype = torch.float32) -> None:
    """Writes both files, each whole or not at all.

    Args:
        folder: made if missing.
        dtype: of the stored weights; float16 halves the file.
    """
    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    write_atomic(folder / WEIGHTS, safetensors.torch.save(to_hugging_face(state), {"format": "pt"}))
    config = model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    write_atomic(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def load_lm(folder: Path) -> LlamaLM:
    """Reads the folder, with weights in one file or in several with an index; they become float32,
    whatever they are stored in. The model is in evaluation mode.

    Raises:
        ModelError: a file is missing or damaged, the config asks for what `LMConfig` refuses, or names and shapes do
            not fit it.
    """
    config = LMConfig.from_dict(_object(folder / CONFIG))
    state = from_hugging_face(_stored(folder), config)
    return filled(config, state, f"{folder / WEIGHTS}: does not fit {CONFIG}")


def filled(config: LMConfig, state: Mapping[str, Tensor], wrong: str) -> LlamaLM:
    """The network with these weights, as float32 and in evaluation mode.

    Args:
        config: its sizes. Memory is taken only after they were found to be those of the weights.
        state: by our names.
        wrong: how the message begins where they do not fit.

    Raises:
        ModelError: a tensor is missing, of another shape, or not wanted.
    """
    with torch.device("meta"):
        wanted = LlamaLM(config).state_dict()
    odd = [
        f"{name} {tuple(state[name].shape) if name in state else 'missing'}"
        for name, value in wanted.items()
        if name not in state or state[name].shape != value.shape
    ] + [f"{name} not wanted" for name in state.keys() - wanted.keys()]
    if odd:
        raise ModelError(f"{wrong}: {'; '.join(sorted(odd)[:3])}")
    with torch.random.fork_rng(devices=[]):  # starting weights are overwritten: leave the caller's chance alone
        model = LlamaLM(config)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval()


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path}: cannot be read ({e})") from e
    if not isinstance(found, dict):
        raise ModelError(f"{path}: holds a {type(found).__name__}, expected names and values")
    return found


def _stored(folder: Path) -> dict[str, Tensor]:
    """The tensors of the one file, or of those that an index names."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        places = _object(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(n, str) for n in places.values()):
            raise ModelError(f"{folder / INDEX}: without a weight_map of file names")
        names = sorted({*places.values()})
        if strange := [n for n in names if Path(n).name != n or not n.endswith(".safetensors")]:
            raise ModelError(f"{folder / INDEX}: names {strange[0]!r:.80}, expected safetensors files beside it")
    found: dict[str, Tensor] = {}
    for name in names:
        try:
            found |= safetensors.torch.load_file(folder / name)
        except (OSError, safetensors.SafetensorError) as e:
            raise ModelError(f"{folder / name}: cannot be read as safetensors ({e})") from e
    return found
