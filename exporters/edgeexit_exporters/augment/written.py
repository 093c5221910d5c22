"""Export of a network with fitted exits: a layout that fails leaves the others, and a failure leaves the exits.

Fitting takes minutes to hours, and what fails comes last. So the layouts that work are written where no special ones
were asked for; where one was, or none works, the network with its exits is saved as an .onnx file, from which `edgeexit
export` goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeexit.bundle import Bundle
from edgeexit.engine import RUN_LAYOUTS
from edgeexit.errors import ModelError
from edgeexit.files import write_atomic
from edgeexit_exporters import layouts as building
from edgeexit_exporters.exporting import DEFAULT_LAYOUTS, export_source
from edgeexit_exporters.source import Source


def export_exits(
    grafted: Source,
    draft: Path,
    out: Path,
    *,
    layouts: Sequence[str] | None,
    tell: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> tuple[Bundle, dict[str, str]]:
    """Export a network with exits to a draft bundle.

    Args:
        grafted: the network with exits.
        draft: the draft's folder.
        out: the bundle's folder; exits that cannot be exported are saved beside it.
        layouts: all of them must succeed; None = those of `DEFAULT_LAYOUTS` that do.
        tell: called with what failed.
        options: of `export_source`.

    Returns:
        The draft; and layout -> why it is left out.

    Raises:
        ModelError: an asked-for layout fails, or none is left that can be run; says where the exits were saved.
    """
    wanted = list(layouts or DEFAULT_LAYOUTS)
    failed: dict[str, str] = {}
    while True:
        try:
            return export_source(grafted, draft, layouts=wanted, **options), failed
        except ModelError as e:
            runnable = [w for w in wanted if w in RUN_LAYOUTS and w != e.layout]
            if layouts is not None or e.layout is None or not runnable:
                raise _with_saved(e, failed, grafted, out) from e
            failed[e.layout] = str(e).removesuffix("; no bundle was written")
            wanted.remove(e.layout)
            tell(f"warning: no {e.layout} layout: {failed[e.layout]}")


def _with_saved(error: ModelError, failed: Mapping[str, str], grafted: Source, out: Path) -> ModelError:
    """The error with where the exits are, and why other layouts failed before."""
    before = "".join(f"; {layout}: {why}" for layout, why in failed.items())
    names = ",".join(e.answer for e in grafted.exits)
    path = _free(out.with_name(f"{out.name.removesuffix('.edgeexit')}-exits.onnx"))
    try:
        raw = building.to_bytes(building.all_exits(grafted.model, grafted.tensors), path.name)
        write_atomic(path, raw)
    except (ModelError, OSError) as e:
        saved = f"the fitted exits could not be saved either: {e}"
    else:
        saved = (
            f"the network with its fitted exits is saved: edgeexit export {path} --exits {names} --out {out}, with "
            "other --layouts or a larger --tolerance"
        )
    found = type(error)(f"{error}{before}; {saved}")
    found.layout = error.layout
    return found


def _free(path: Path) -> Path:
    found, k = path, 2
    while found.exists():
        found, k = path.with_stem(f"{path.stem}-{k}"), k + 1
    return found
