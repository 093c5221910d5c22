"""The example package with a policy family of its own, registered by entry-point metadata alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from example_packages import run_with, write_metadata
from test_examples import shape

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "extending" / "energy_policy"
ENERGIES = ("--policy", "energy", "--joules", "0.0031,0.0042,0.0098")


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_with(FOLDER, folder, *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package's metadata, as pip would write it, where the example has run."""
    folder = tmp_path_factory.mktemp("energy")
    write_metadata(FOLDER, folder / "site")
    done = run(folder, FOLDER / "energy_policy.py")
    assert done.returncode == 0, done.stderr
    folder.joinpath("printed.txt").write_text(done.stdout)
    return folder


def test_it_prints_what_the_readme_shows(installed: Path) -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", (FOLDER / "README.md").read_text(), re.S)
    assert shape((installed / "printed.txt").read_text()) == shape(shown)


def test_the_budget_in_joules_is_kept(installed: Path) -> None:
    printed = (installed / "printed.txt").read_text()
    by_macs, by_energy = (float(re.search(rf"by {n}: ([\d.]+) mJ", printed)[1]) for n in ("MACs", "energy"))  # type: ignore[index]
    assert by_energy <= 3.6 < by_macs


def test_the_command_line_has_the_family_and_its_option(installed: Path) -> None:
    text = run(installed, "-m", "edgeexit", "calibrate", "--help").stdout
    assert "fixed|energy]" in text and "--joules" in text
    done = run(installed, "-m", "edgeexit", "calibrate", "--records", "recorded.npz", *ENERGIES, "--budget", "3.6mJ")
    assert done.returncode == 0 and "budget 0.367347" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policy", "energy", "--budget", "3.6mJ"), "needs the energy of each exit"),
        ((*ENERGIES[:3], "0.003,0.001,0.009", "--budget", "3.6mJ"), "3 positive growing numbers"),
        (("--joules", "0.1,0.2,0.3", "--budget", "0.5"), "--joules goes with --policy energy"),
        (("--budget", "3.6mJ"), "does not go with costs in macs"),
        ((*ENERGIES, "--budget", "4MMACs"), "does not go with costs in joules"),
        ((*ENERGIES, "--budget", "1mJ"), "below the first exit's 0.0031 joules"),
    ],
)
def test_refusals(installed: Path, options: tuple[str, ...], message: str) -> None:
    done = run(installed, "-m", "edgeexit", "calibrate", "--records", "recorded.npz", *options)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
