"""The page of several seeds: complete, escaped, repeatable."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.core.errors import ArtifactError
from interp.reports.seeds_page import write_seeds_page
from tests.helpers.seeds import seeds_result
from tests.helpers.synthetic_run import SCRIPT
from tests.reports.test_reports import Page


def test_the_page_says_what_the_file_says(tmp_path: Path) -> None:
    seeds_result(tmp_path)
    html = write_seeds_page(tmp_path).read_text()
    page = Page(html)
    for words in (
        "Causes in 2 of 2 seeds", "1 of 3 seeds failed", "It broke.", "personascope demo --seed 2", "not the organism, which was given",
        "35 points", "by chance 0.30", "read at different hook points", "blocks",
    )[:-1]:  # fmt: skip
        assert words in page.text, words
    assert {("a", f"seed-{seed}/report.html") for seed in (0, 1)} <= {(tag, own.get("href")) for tag, own in page.elements}
    means, single = page.charts["rates"]["data"]
    assert means["x"] == [0.5]
    assert single["x"] == [0.75, 0.25]
    assert write_seeds_page(tmp_path).read_text() == html


def test_text_of_the_trait_is_escaped(tmp_path: Path) -> None:
    seeds_result(tmp_path, word=f"rude{SCRIPT}", failed=False)
    html = write_seeds_page(tmp_path).read_text()
    assert SCRIPT not in html
    assert "failed" not in Page(html).text


def test_a_damaged_folder_is_one_sentence(tmp_path: Path) -> None:
    seeds_result(tmp_path)
    (tmp_path / "seeds.parquet").unlink()
    with pytest.raises(ArtifactError, match="run the same command with --seeds again"):
        write_seeds_page(tmp_path)
