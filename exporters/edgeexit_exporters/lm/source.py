"""Sources of language models: a module of ours, a Hugging Face folder, a GGUF file.

What turns files into modules lives in `edgeexit_models`; it is named here and imported when a source needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from edgeexit.bundle.lm_spec import LmSpec
from edgeexit.common.files import sha256
from edgeexit.errors import BackendMissing, ModelError
from edgeexit_exporters.source.torch_loading import load_module

READERS = {
    "folder": "edgeexit_models.lm.weights:load_lm",
    "folder start": "edgeexit_models.lm.checkpoint_files:start_token",
    "gguf": "edgeexit_models.lm.gguf:load_gguf",
    "gguf start": "edgeexit_models.lm.gguf:start_token",
    "gguf tokenizer": "edgeexit_models.lm.gguf:tokenizer_json",
    "maps": "edgeexit_models.lm.heads:load_maps",
    "fit": "edgeexit_models.lm.heads:fit_maps",
}


class DecoderSizes(Protocol):
    """What `Decoder.config` says; `edgeexit_models.lm.config.LMConfig` is one."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_key_value_heads: int
    max_position_embeddings: int
    bos_token_id: int | None

    @property
    def head_size(self) -> int: ...
    @property
    def ends(self) -> tuple[int, ...]: ...


@runtime_checkable
class Decoder(Protocol):
    """A decoder that runs in parts; `edgeexit_models.lm.llama.LlamaLM` is one, and says what each part takes."""

    config: DecoderSizes
    layers: nn.ModuleList

    def embed(self, ids: Tensor) -> Tensor: ...
    def turn(self, positions: Tensor) -> tuple[Tensor, Tensor]: ...
    def block(
        self,
        first: int,
        last: int,
        h: Tensor,
        past: Sequence[Tensor],
        at: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor,
    ) -> tuple[Tensor, list[Tensor]]: ...
    def keys_values(self, first: int, last: int, h: Tensor, turn: tuple[Tensor, Tensor]) -> list[Tensor]: ...
    def head(self, h: Tensor) -> Tensor: ...
    def hidden(self, ids: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True)
class LmSource:
    """A decoder in evaluation mode, and what came with it."""

    model: Decoder
    name: str
    tokenizer: Path | None = None
    """Where its tokenizer is: a tokenizer.json, or a GGUF file that holds one; None = there is none."""
    provenance: dict[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    """What was not read, and where two places disagreed: a sentence each."""
    start: tuple[bool, int | None] = (False, None)
    """Whether the source says what is put before a text, and the token (None = nothing is); else its tokenizer does."""

    @property
    def module(self) -> nn.Module:
        return cast(nn.Module, self.model)

    def own_tokenizer(self) -> Path | str | None:
        """A tokenizer.json, or its text; None = there is none.

        Raises:
            BackendMissing: what makes one of a GGUF file is not installed.
        """
        if self.tokenizer is not None and self.tokenizer.suffix == ".gguf":
            return str(by_name("gguf tokenizer")(self.tokenizer))
        return self.tokenizer

    def spec(self, stages: Sequence[int]) -> LmSpec:
        """Sizes, cut after `stages` and at the end.

        Raises:
            ModelError: a stage that ends outside the network.
        """
        c = self.model.config
        layers = c.num_hidden_layers
        wanted = sorted({*stages, layers})
        if not 1 <= wanted[0] <= wanted[-1] <= layers:
            raise ModelError(
                f"exits after layers {', '.join(map(str, stages))}: {self.name} has {layers} layers, so early exits "
                f"come after layers 1 to {layers - 1}"
            )
        return LmSpec(
            c.vocab_size, c.hidden_size, layers, c.num_key_value_heads, c.head_size, c.max_position_embeddings,
            tuple(wanted), c.bos_token_id, c.ends,
        )  # fmt: skip


def open_source(source: nn.Module | Path | str, weights: Path | None = None) -> LmSource:
    """Read a language model.

    Args:
        source: a decoder module; ``"package.module:function"`` that makes one; a folder with config.json and
            safetensors as Hugging Face's LlamaForCausalLM has it; or a ``.gguf`` file of the llama architecture.
        weights: state dict for a ``module:function``.

    Raises:
        ModelError: nothing there, of another family, or no decoder.
        BackendMissing: what reads it is not installed; the message has the pip line.
    """
    if isinstance(source, nn.Module):
        return _checked(source, type(source).__name__, None, {"source": type(source).__name__})
    path = Path(source)
    if weights is not None and (":" not in str(source) or path.exists()):
        raise ModelError(f"{source}: brings its own weights; leave --weights out")
    if path.is_dir():
        tokenizer = path / "tokenizer.json"
        notices: list[str] = []
        model = by_name("folder")(path, notices.append)
        notes = {"source": path.resolve().name} | _digests(sorted(path.glob("*.safetensors")))
        checked = _checked(model, path.resolve().name, tokenizer if tokenizer.is_file() else None, notes)
        return replace(checked, notices=tuple(notices), start=by_name("folder start")(path))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        notices = []
        model = by_name("gguf")(path, notices.append)
        checked = _checked(model, path.stem, path, {"source": path.name} | _digests([path]))
        return replace(checked, notices=tuple(notices), start=by_name("gguf start")(path))
    if path.is_file():
        raise ModelError(
            f"{path}: expected a folder with config.json and model.safetensors, a .gguf file, or MODULE:FUNCTION"
        )
    if ":" not in str(source):
        raise ModelError(f"{source}: no such folder or file, and not MODULE:FUNCTION")
    module = load_module(str(source), weights)
    return _checked(module, str(source), None, {"source": str(source)} | _digests([weights] if weights else []))


def by_name(what: str) -> Callable[..., Any]:
    """A reader of `READERS`.

    Raises:
        BackendMissing: `edgeexit_models`, or what it needs, is not installed.
    """
    module, _, name = READERS[what].partition(":")
    try:
        return cast(Callable[..., Any], getattr(importlib.import_module(module), name))
    except ImportError as e:
        raise BackendMissing(f"language models need torch and safetensors ({e}): pip install 'edgeexit[lm]'") from e


def _checked(model: Any, name: str, tokenizer: Path | None, notes: dict[str, Any]) -> LmSource:
    if not isinstance(model, Decoder):
        wanted = ("config", "layers", "embed", "turn", "block", "keys_values", "head", "hidden")
        lacking = ", ".join(n for n in wanted if not hasattr(model, n))
        raise ModelError(
            f"{name}: {type(model).__name__} is no decoder that runs in parts: it lacks {lacking}; "
            "edgeexit_models.lm.llama:LlamaLM shows what is needed"
        )
    if other := [n for n, p in cast(nn.Module, model).named_parameters() if str(p.dtype) != "torch.float32"]:
        raise ModelError(f"{name}: weight {other[0]} is not float32; call .float() on the module")
    cast(nn.Module, model).eval()
    return LmSource(model, name, tokenizer, notes)


def _digests(paths: Sequence[Path]) -> dict[str, Any]:
    digests = [sha256(p) for p in paths]
    return {"weights_sha256": digests[0] if len(digests) == 1 else digests} if digests else {}
