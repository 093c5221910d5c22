"""Compare a wheel's files with the packages in the tree: `wheel_content.py dist/*.whl`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "edgeexit": ROOT / "edgeexit",
    "edgeexit_exporters": ROOT / "exporters/edgeexit_exporters",
    "edgeexit_runtimes": ROOT / "runtimes/edgeexit_runtimes",
    "edgeexit_models": ROOT / "models/edgeexit_models",
}


def main(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {n for n in archive.namelist() if ".dist-info/" not in n}
    expected = {
        f"{name}/{f.relative_to(folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for f in folder.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }
    if inside != expected:
        missing, strange = sorted(expected - inside), sorted(inside - expected)
        sys.exit(f"{wheel}: missing {missing or 'nothing'}; not in the tree: {strange or 'nothing'}")
    print(f"{Path(wheel).name}: {len(inside)} files, as in the tree")


if __name__ == "__main__":
    main(sys.argv[1])
