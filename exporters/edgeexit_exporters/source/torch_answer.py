"""Answer of a torch module that returns several values, such as logits beside hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from edgeexit.errors import ModelError


class AnswerModule(nn.Module):
    """A module that returns one of the tensors that another one does.

    Args:
        module: the other one.
        name: a key of the mapping that it returns, or a number where it returns a tuple or list. What a module with
            one answer returns, it stays, whatever the name.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name
        for attribute in ("input_spec", "states", "speech_spec"):
            if hasattr(module, attribute):
                setattr(self, attribute, getattr(module, attribute))

    def forward(self, *inputs: Tensor) -> Any:
        returned = self.module(*inputs)
        if getattr(self, "states", None):
            answer, *after = returned
            return (self._of(answer), *after)
        return self._of(returned)

    def _of(self, returned: Any) -> Any:
        held = {str(k): v for k, v in _items(returned)}
        if isinstance(returned, Tensor) or (self.name not in held and "output" in held):
            return returned
        value = held.get(self.name)
        if not isinstance(value, Tensor):
            known = ", ".join(k for k, v in held.items() if isinstance(v, Tensor)) or "no tensor"
            raise ModelError(
                f"{type(self.module).__name__} returns nothing called {self.name!r} that is a tensor; it returns "
                f"{type(returned).__name__} with {known}"
            )
        return value


def _items(returned: Any) -> list[tuple[Any, Any]]:
    if isinstance(returned, Mapping):
        return list(returned.items())
    return list(enumerate(returned)) if isinstance(returned, list | tuple) else []
