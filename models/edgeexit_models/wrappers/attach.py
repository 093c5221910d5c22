"""Make any backbone multi-exit by naming submodules, without touching its code.

Forward hooks read the outputs of the named submodules. They exist only while the wrapper runs, so the backbone
used alone is unchanged. Every head runs inside its hook, before a later in-place ReLU can change its input.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models.definitions.heads import HeadFactory, make_head
from edgeexit_models.protocol import InputSpec, check_outputs, evaluating
from edgeexit_models.wrappers.hooks import (
    check_names,
    final_logits,
    first_tensor,
    not_run,
    observe,
    ran_repeatedly,
    run_with_hooks,
)

Heads = str | Iterable[nn.Module] | HeadFactory
"""A name from `HEADS`, one module per place, or a function (feature shape, classes) -> module."""


class MultiExit(nn.Module):
    """A backbone with heads behind some of its submodules; built and checked by `attach`.

    Keys of the state dict start with `backbone.` and `heads.`.

    Args:
        backbone: any module.
        after: names of submodules, in the order they run.
        heads: one head per name.
        include_final: whether the backbone's own output is the last exit.
        freeze: keep the backbone in evaluation mode while training, so that its batch norms do not drift.
    """

    def __init__(
        self,
        backbone: nn.Module,
        after: Sequence[str],
        heads: Sequence[nn.Module],
        include_final: bool = True,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.after = tuple(after)
        self.include_final = include_final
        self.freeze = freeze
        self.input_spec: InputSpec = {}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The backbone's inputs -> `(batch, classes)` of every exit, the backbone's own last."""
        logits: dict[int, Tensor] = {}

        def run_head(index: int, output: object) -> None:
            if index in logits:
                raise ModelError(ran_repeatedly(self.after[index], "twice or more"))
            logits[index] = self.heads[index](first_tensor(output, self.after[index]))

        final = run_with_hooks(self.backbone, self.after, run_head, inputs)
        missing = [name for index, name in enumerate(self.after) if index not in logits]
        if missing:
            raise ModelError(not_run(missing[0]))
        outputs = [logits[index] for index in range(len(self.after))]
        if self.include_final:
            outputs.append(final_logits(final))
        return tuple(outputs)

    def train(self, mode: bool = True) -> MultiExit:
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self


def attach(
    backbone: nn.Module,
    after: Sequence[str],
    *,
    example: Tensor | tuple[Tensor, ...],
    heads: Heads = "auto",
    classes: int | None = None,
    include_final: bool = True,
    freeze: bool = False,
) -> MultiExit:
    """Adds an exit behind each submodule named in `after`.

    The example is run once, in evaluation mode, to check which submodules run, in which order, and what they
    return. Of a tuple, list or dict (as transformers' blocks return) the first tensor is used. The backbone's own
    output may be a tensor, or a tuple or dict: then `logits`, or else the first tensor, is used.

    Args:
        backbone: any module; not copied.
        after: names as in `backbone.named_modules()`, in the order they run.
        example: one set of inputs, of the shapes and types the network will get.
        heads: see `Heads`. "auto" reads `(batch, tokens, channels)` as tokens and `(batch, channels, height,
            width)` as a picture; for signals `(batch, channels, length)` say "pool". Heads get features only,
            no padding mask.
        classes: number of classes; None = as in the backbone's output.
        include_final: whether the backbone's own output is the last exit.
        freeze: train heads only; this switches off gradients of the backbone's own parameters.

    Returns:
        A multi-exit module. Its `input_spec` is the backbone's, or else follows from the example with the first axes
        free; set the attribute if other axes are free too.

    Raises:
        ModelError: a name is unknown, listed twice, not run, run more than once or out of order; a head does
            not fit.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    names = list(after)
    check_names(backbone, names, "after")
    observation = observe(backbone, names, inputs)
    if classes is None:
        if not include_final:
            raise ModelError("classes is needed with include_final=False: nothing else says how many there are")
        classes = final_logits(observation.final).shape[-1]
    built = _build_heads(heads, [observation.shapes[name] for name in names], classes)
    multi = MultiExit(backbone, names, built, include_final, freeze)
    multi.input_spec = getattr(backbone, "input_spec", None) or _spec(backbone, inputs)
    _try(multi, inputs)
    if freeze:
        backbone.requires_grad_(False)
    return multi


def _build_heads(heads: Heads, shapes: list[tuple[int, ...]], classes: int) -> list[nn.Module]:
    if isinstance(heads, str):
        return [make_head(heads, shape, classes) for shape in shapes]
    if isinstance(heads, Iterable):
        modules = list(heads)
        if len(modules) != len(shapes) or not all(isinstance(head, nn.Module) for head in modules):
            raise ModelError(
                f"`heads` must be {len(shapes)} modules, one per name in `after`, got {len(modules)} items"
            )
        return modules
    if isinstance(heads, nn.Module) or not callable(heads):
        raise ModelError(
            "`heads` must be a name, one module per place, or a function (feature shape, classes) -> module"
        )
    return [heads(shape, classes) for shape in shapes]


def _try(multi: MultiExit, inputs: tuple[Tensor, ...]) -> None:
    """Runs the finished module on the example, so that a head that does not fit is reported now."""
    try:
        with evaluating(multi), torch.no_grad():
            outputs = multi(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as e:
        raise ModelError(f"a head does not fit its features: {e}") from e
    if len(outputs) > 1:
        check_outputs(outputs, "the wrapped model")


def _spec(backbone: nn.Module, inputs: tuple[Tensor, ...]) -> InputSpec:
    parameters = [p for p in inspect.signature(backbone.forward).parameters.values() if p.kind != p.VAR_KEYWORD]
    plain = [p.name for p in parameters if p.kind != p.VAR_POSITIONAL]
    names = [plain[i] if i < len(plain) else f"input_{i}" for i in range(len(inputs))]
    return {
        name: (str(value.dtype).removeprefix("torch."), ("batch", *value.shape[1:]))
        for name, value in zip(names, inputs, strict=True)
    }
