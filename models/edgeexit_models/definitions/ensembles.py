"""Ensembles: networks whose one exit has several heads that are averaged.

They return `((head, head, ...),)`, as the exporter takes it. QUTE's deployed network is of this kind; these two, and
the plain network, are compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models.protocol import InputSpec, exits

Group = tuple[tuple[Tensor, ...]]
"""One exit: the logits `(batch, classes)` of its heads."""


class ExitEnsemble(nn.Module):
    """All exits of a multi-exit network as one (Qendro et al. 2021): every input runs the whole network.

    Args:
        module: a multi-exit network; not copied.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.input_spec: InputSpec = getattr(module, "input_spec", {})

    def forward(self, *inputs: Tensor) -> Group:
        return (exits(self.module, *inputs),)


class DeepEnsemble(nn.Module):
    """The last exits of several networks as one: same design, other seeds (Lakshminarayanan et al. 2017).

    Args:
        modules: multi-exit networks; not copied. One is a plain network, early heads left out.

    Raises:
        ModelError: no networks.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        if not modules:
            raise ModelError("a deep ensemble needs at least one network, got none")
        self.members = nn.ModuleList(modules)
        self.input_spec: InputSpec = getattr(modules[0], "input_spec", {})
        self.preprocess = getattr(modules[0], "preprocess", None)

    def forward(self, *inputs: Tensor) -> Group:
        return (tuple(exits(m, *inputs)[-1] for m in self.members),)
