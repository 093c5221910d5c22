from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeexit.calibrate.sweep import Sweep
from edgeexit.report import sweep_html
from report.made_sweep import HOSTILE, hostile, ordinary

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=2000",
]


@functools.cache
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium, chromium-browser or google-chrome on this machine")


def opened(page: str, folder: Path) -> str:
    """The page's elements after its script ran."""
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    command = [browser(), *_FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def drawn(s: Sweep) -> int:
    return sum(r.feasible and r.policy != "fixed" for r in s.rows)


@pytest.mark.parametrize("timed", [False, True])
def test_the_script_draws_every_point(tmp_path: Path, timed: bool) -> None:
    s = ordinary(timed)
    dom = opened(sweep_html(s), tmp_path)
    assert dom.count('class="pt"') == drawn(s)
    assert f'data-points="{drawn(s) + 4}"' in dom and dom.count('<rect class="static"') == 4
    assert "NaN" not in re.sub(r"(?s)<script>.*?</script>", "", dom)
    assert ('<option value="seconds">' in dom) is timed
    assert dom.count('type="checkbox"') == len(s.policies) - 1 + 1 + 2  # fixed is the squares; two axis settings
    assert "<h3>maxprob</h3>" in dom  # the verdict's point is open


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = sweep_html(hostile())
    assert page.count("<script") == 2 and page.count("</script>") == 2 and "<img" not in page
    dom = opened(page, tmp_path)
    assert "<img" not in dom and "<title>EdgeExit: accuracy against cost</title>" in dom
    assert dom.count('class="pt"') == drawn(hostile())


def test_data_survive_embedding() -> None:
    found = re.search(r'<script type="application/json" id="sweep">(.*?)</script>', sweep_html(hostile()))
    assert found is not None
    data = json.loads(found[1])
    assert data["data"]["held_out"] == HOSTILE and HOSTILE in {r["policy"] for r in data["rows"]}


def test_nothing_is_fetched() -> None:
    page = sweep_html(ordinary())
    assert not re.search(r"https?:|//[a-z]|\burl\(|@import|<link|<iframe|\bsrc=|fetch\(|XMLHttp", page)
    assert "default-src 'none'" in page


def test_the_verdict_comes_first_and_the_numbers_need_no_script() -> None:
    s = ordinary()
    page = sweep_html(s)
    body = page.split("<body>")[1]
    headline, _, more = s.verdict.text.partition(". ")
    assert body.lstrip().startswith(f'<h1>{html.escape(headline)}.</h1>\n<p class="lead">{html.escape(more)}</p>')
    assert "<noscript>" in page and page.count("<tr data-i=") == len(s.rows)
    assert "device a board, threads 1" in page and "out of reach" in page
    assert page.index("One exit for every input") < page.index("All operating points")


def test_equal_sweeps_give_equal_pages() -> None:
    assert sweep_html(ordinary()) == sweep_html(ordinary())


def test_toggling_sorting_and_pinning(tmp_path: Path) -> None:
    s = ordinary()
    acts = """<script>
      document.querySelector("#legend input").click();
      for (const b of document.querySelectorAll("#rows th button")) if (b.textContent === "cost") b.click();
      const box = document.querySelectorAll("rect.static")[1].getBoundingClientRect();
      document.getElementById("plot").dispatchEvent(new MouseEvent("click",
        {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true}));
    </script>"""
    # The page's own policy refuses any other script, so it has to go for this one to run.
    page = re.sub(r"<meta http-equiv=[^>]*>", "", sweep_html(s)).replace("</body>", f"{acts}</body>")
    dom = opened(page, tmp_path)
    hidden = sum(r.feasible and r.policy == "maxprob" for r in s.rows)
    assert dom.count('class="pt"') == drawn(s) - hidden
    assert "<h3>Exit 1 alone</h3>" in dom
    body = dom.split('id="rows"')[1]
    order = [s.rows[int(i)].cost for i in re.findall(r'<tr data-i="(\d+)"', body)]
    known = [c for c in order if c is not None]
    assert known == sorted(known) and order[len(known) :] == [None] * (len(order) - len(known))


def test_other_scripts_are_refused(tmp_path: Path) -> None:
    page = sweep_html(ordinary()).replace("</body>", "<script>document.title = 'owned';</script></body>")
    assert "<title>owned</title>" not in opened(page, tmp_path)
