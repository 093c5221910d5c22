"""Import time of `edgeexit` and of `edgeexit.load`, beyond that of numpy.

Target: `import edgeexit` at most 10 ms over `import numpy`.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from benchmarks.common import finish, parser

CASES = {
    "numpy": "import numpy",
    "numpy + edgeexit": "import numpy, edgeexit",
    "numpy + edgeexit.load": "import numpy, edgeexit; edgeexit.load",
}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--n", type=int, default=40, help="rounds [default: 40]")
    a = p.parse_args()
    spent: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(a.n + 2):
        for name, code in CASES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            spent[name].append(time.perf_counter() - start)
    base = np.array(spent["numpy"][2:])
    rows = [
        {
            "case": name,
            "p50_ms": float(np.median(s[2:]) * 1000),
            "over_numpy_ms": float(np.median(np.array(s[2:]) - base) * 1000),
        }
        for name, s in spent.items()
    ]
    finish("import", rows, a, n=a.n)


if __name__ == "__main__":
    main()
