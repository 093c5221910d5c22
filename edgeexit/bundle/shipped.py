"""Bundles inside the package, opened by their bare names: `edgeexit.load("digits")`."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).resolve().parent.parent / "bundles"
_SUFFIX = ".edgeexit"


def shipped_names() -> list[str]:
    """Names of the shipped bundles, sorted."""
    return sorted(p.name.removesuffix(_SUFFIX) for p in SHIPPED.glob(f"*{_SUFFIX}"))


def is_shipped(folder: Path) -> bool:
    """Whether a bundle's folder is part of the installed package."""
    return SHIPPED in folder.resolve().parents


def locate(path: Path | str) -> Path:
    """The folder of the shipped bundle that `path` names, else `path` itself. A path that exists is never a name."""
    path = Path(path)
    shipped = SHIPPED / f"{path}{_SUFFIX}"
    return shipped if str(path) in shipped_names() and not path.exists() else path
