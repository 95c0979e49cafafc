"""What the page says of the dictionary's fit, of persona vectors, of user tokens and of baselines; and of runs that lack these steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.core.files import read_json, write_json
from interp.core.steps import MANIFEST_FILE
from interp.reports.page import write_report
from tests.helpers.synthetic_run import build_run

SAYS = {
    "fit": "mean difference between the models, each on its own answers",
    "persona_vectors": "halves of the questions give vectors with cosine 0.86",
    "user_tokens": "So the fine-tune has them more active before it answers anything.",
    "beyond_baselines": "Removing the mean difference does as well",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(build_run(tmp_path_factory.mktemp("later"), nasty=False)).read_text()


@pytest.mark.parametrize("what", SAYS)
def test_the_page_says_what_was_measured(what: str, page: str) -> None:
    assert SAYS[what] in page


def test_doubts_stand_under_the_first_sentence(tmp_path: Path, page: str) -> None:
    assert page.index("Persona vector in doubt.") < page.index('id="rates"')
    assert "Dictionary in doubt." not in page
    empty = write_report(build_run(tmp_path, empty=True, nasty=False)).read_text()
    assert empty.index("Dictionary in doubt.</b> It misses most.") < empty.index('id="rates"')
    assert "1 questions have both, too few" in empty


def test_a_run_that_was_made_without_these_steps_is_drawn(tmp_path: Path) -> None:
    run = build_run(tmp_path, nasty=False)
    manifest, summary = read_json(run.root / MANIFEST_FILE), read_json(run.root / "summary.json")
    for name in SAYS:
        manifest["steps"].pop(name, None)
        summary.pop(name, None)
    write_json(run.root / MANIFEST_FILE, manifest)
    write_json(run.root / "summary.json", summary)
    page = write_report(run).read_text()
    assert not any(words in page for words in SAYS.values())
    assert "How much of the difference between the models it reconstructs was not measured." in page
