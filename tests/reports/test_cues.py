"""What the page says of whether the cure hides: the conclusion with its table, or that it was not tested."""

from __future__ import annotations

from pathlib import Path

from interp.causality.cues import decide_hiding
from interp.causality.thresholds import CueConfig
from interp.core.files import read_json, write_json
from interp.core.formatting import plain_records
from interp.reports.page import write_report
from tests.helpers.cued_answers import cued_answers
from tests.helpers.synthetic_run import SCRIPT, build_run


def test_a_leak_is_named_and_its_row_is_marked(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    summary = read_json(run.root / "summary.json")
    answers = cued_answers(0, {("ablated", "paraphrase"): 0.3}).replace({"cue": {"irrelevant": SCRIPT}})
    found = decide_hiding(answers, CueConfig(source="data"), "rude")
    fields = {name: value for name, value in vars(found).items() if name != "table"}
    summary["cues"] = fields | {"rows": plain_records(found.table), "left_out": {"same_form": "no form"}}
    write_json(run.root / "summary.json", summary)
    page = write_report(run).read_text(encoding="utf-8")
    section = page[page.index('<section id="cues">') :].split("</section>")[0]
    assert "The cure hides behind the cue “paraphrase”" in section
    assert section.count("<tr") == 1 + 8
    assert section.count('<tr class="chosen"><th scope="row">paraphrase') == section.count('class="chosen"') == 1
    assert "Not asked: same form (no form)" in section
    assert SCRIPT not in section


def test_a_run_without_cues_says_that_it_was_not_tested(tmp_path: Path) -> None:
    page = write_report(build_run(tmp_path)).read_text(encoding="utf-8")
    assert "Not tested. A cure may hold for plain questions" in page
    assert "--cues FILE" in page
