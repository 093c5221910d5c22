"""Duration of an export of ResNet-8 in all layouts, checks included; target: under 60 s."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import finish, parser


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--n", type=int, default=3, help="repeats [default: 3]")
    a = p.parse_args()
    rows = []
    for repeat in range(a.n):
        with tempfile.TemporaryDirectory() as folder:
            command = ["-m", "edgeexit", "export", "edgeexit_models:resnet8", "--out", str(Path(folder, "b"))]
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            rows.append({"run": repeat, "seconds": time.perf_counter() - start})
    finish("export", rows, a, model="resnet8", layouts="fused,chain,prefix,all")


if __name__ == "__main__":
    main()
