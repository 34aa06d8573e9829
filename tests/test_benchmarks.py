"""The harness of the benchmarks takes the ratios it claims and stops at unequal results; the page is up to date."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.data.photographs import write_photographs


ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
sys.path.insert(0, str(FOLDER))
import pairing  # noqa: E402
import render  # noqa: E402


MEASURING = sorted(path.stem for path in FOLDER.glob("*.py") if "from pairing import" in path.read_text("utf-8"))
MEASURING = [name for name in MEASURING if name != "render"]
DATA_OPTIONS = {"input_pipeline": ("--data", "--small-data"), "view_backends": ("--data",)}


def options(tmp_path, **changes):
    values = {"quick": True, "repeats": None, "threads": 1, "out": tmp_path / "out.json"}
    return argparse.Namespace(**{**values, **changes})


class TestPairing:
    def test_ratios_are_taken_repeat_by_repeat(self):
        row = pairing.Row("w", ours=[1.0, 10.0, 2.0], rivals={"r": [3.0, 40.0, 4.0]}, check="", aims={"r": 3.5})
        assert row.ratios("r") == [3.0, 4.0, 2.0]  # median 3; the ratio of the medians would be 2
        assert row.missed() == ["r"]
        assert pairing.Row("w", row.ours, row.rivals, "", aims={"r": 3.0}).missed() == []

    def test_share_of_the_limit(self):
        row = pairing.Row("w", [2.0], {}, "", aims={"limit": 0.3}, limit=pairing.Limit(0.5, "words"))
        assert row.share_of_limit() == 0.25
        assert row.missed() == ["limit"]

    def test_an_aim_without_its_rival_is_missed(self):
        assert pairing.Row("w", [2.0], {}, "", aims={"absent": 0.1}).missed() == ["absent"]

    def test_runs_take_turns_in_alternating_order(self, tmp_path):
        report, calls = pairing.Report("n", question="q", options=options(tmp_path, repeats=2)), []
        rivals = {"r": lambda: calls.append("r")}
        report.pair("w", ours=lambda: calls.append("o"), rivals=rivals, check=lambda own, others: "ok")
        assert "".join(calls) == "or" + "or" + "ro"
        assert len(report.rows[0].ours) == 2

    def test_unequal_results_are_not_timed(self, tmp_path):
        report, calls = pairing.Report("n", question="q", options=options(tmp_path)), []

        def check(ours, others):
            return pairing.largest_difference(ours, others["r"], tolerance=1e-3)

        def rival():
            calls.append(1)
            return torch.tensor([1.1])

        with pytest.raises(pairing.Mismatch, match=r"differ by 0\.1"):
            report.pair("w", ours=lambda: torch.tensor([1.0]), rivals={"r": rival}, check=check)
        assert (len(calls), report.rows) == (1, [])

    @pytest.mark.parametrize("theirs", [torch.tensor([float("nan")]), torch.zeros(2)])
    def test_nan_and_other_shapes_are_unequal(self, theirs):
        with pytest.raises(pairing.Mismatch):
            pairing.largest_difference(torch.zeros(1), theirs, tolerance=1.0)

    @pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak so far can't be forgotten")
    @pytest.mark.usefixtures("one_core")
    def test_peak_memory_sees_what_is_freed_again(self):
        def work():
            return float(torch.ones(2**25).sum())  # 128 MiB, gone at the end

        assert 100 * 2**20 < pairing.peak_memory(work) < 400 * 2**20
        assert pairing.peak_memory(lambda: None) < 20 * 2**20


class TestPage:
    def test_it_is_what_the_numbers_give(self):
        assert render.PAGE.read_text(encoding="utf-8") == render.page(render.read_results()), (
            "run: python benchmarks/render.py"
        )

    def test_a_number_of_the_json_stands_on_the_page(self, tmp_path, monkeypatch):
        report = pairing.Report("n", question="Is it so?", options=options(tmp_path))
        report.add(pairing.Row("w", [0.5], {"rival": [1.0]}, "equal", aims={"rival": 3}, peak_bytes={"ours": 2**21}))
        report.note("A note.")
        report.finish()
        monkeypatch.setattr(render, "RESULTS", tmp_path)
        page = render.page(render.read_results())
        assert "| w | 500 ms | rival | 1 s | **2x** (2 to 2), aim 3 ✗ | 2 MiB |" in page
        assert "## Is it so?" in page
        assert "A note." in page


@pytest.mark.parametrize("name", MEASURING)
def test_every_benchmark_has_a_place_on_the_page(name):
    assert name in (*render.ORDER, "scaling", "gpu_estimate")


NEEDED_RIVALS = {"knn": ("faiss", "lightly"), "training_step": ("lightly",)}  # the others leave a missing rival out


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("name", MEASURING)
def test_every_benchmark_runs(name, tmp_path):
    for rival in NEEDED_RIVALS.get(name, ()):
        pytest.importorskip(rival, reason="pip install -e .[bench] installs the rivals")
    command = [sys.executable, FOLDER / f"{name}.py", "--quick", "--out", tmp_path / "out.json"]
    for option in DATA_OPTIONS.get(name, ()):
        for split in ("train", "test"):
            write_photographs(tmp_path / "data" / f"{split}.parquet", 300, image="img")
        command += [option, tmp_path / "data"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.json").exists()
