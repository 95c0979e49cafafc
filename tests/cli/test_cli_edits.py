"""The commands on a run directory: what they print fits a terminal and a script, and wrong use is one sentence and exit 2."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.cli import chat as chatting
from interp.cli import main as cli
from interp.core.files import read_json
from interp.core.steps import RunDirectory
from interp.models.chats import Chat, Message
from interp.models.generation import generate
from interp.reports.terminal import written
from interp.run import Run
from tests.helpers.small_run import SMALL, small_run, use_letter_judge

Call = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "transformers", "pandas", "numpy", "scipy", "sklearn", "sae_lens")
COMMANDS = ("diff", "steer", "ablate", "sweep", "verdict", "export", "chat", "knockout")
WIDTH = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("edits"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """`personascope ARGS` in this process: exit code, standard output, standard error."""
    use_letter_judge(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    def called(*args: object, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["personascope", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return called


def shown(result: tuple[int, str, str]) -> str:
    """Standard output of a command that went well and fits the terminal."""
    code, out, err = result
    assert code == 0, err
    assert "Traceback" not in err
    assert max(len(line) for line in out.splitlines()) <= WIDTH or "/" in max(out.splitlines(), key=len)  # a path cannot be broken
    return out


def parsed(result: tuple[int, str, str]) -> dict[str, Any]:
    """The JSON that a command printed, and nothing else."""
    code, out, err = result
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_diff_goes_as_far_as_the_diff(call: Call, folder: Path) -> None:
    sets = [f"--set={name}={json.dumps(value)}" for name, value in SMALL.items()]
    pair = ["diff", "--base", folder.parent / "base", "--tuned", folder.parent / "tuned", "--out", folder, *sets]
    out = shown(call(*pair))
    table = pd.read_parquet(RunDirectory(folder).result("diff").path("latents.parquet"))
    assert f"of {len(table)} latents are surely more active" in out
    first = out.splitlines().index("Candidates, with their rank by every metric:") + 1
    heads, top = out.splitlines()[first].split(), out.splitlines()[first + 1].split()
    assert heads[:2] == ["latent", "mean_diff"]
    leader = table.loc[table["mean_diff"].idxmax()]
    assert top[0] == str(int(leader["latent"]))
    assert top[-len(heads[heads.index("diff") :])] == "1"  # its rank by mean_diff
    found = parsed(call(*pair, "--json", "--top", 3))
    assert len(found["candidates"]) <= 3
    assert {"latent", "mean_diff", "mean_diff_low", "mean_diff_high", "q_value", "rank_mean_diff", "rank_cosine"} <= set(
        found["candidates"][0]
    )
    assert set(read_json(folder / "manifest.json")["steps"]) == {"texts", "residuals", "dictionary", "answers", "directions", "diff", "fit"}
    assert not (folder / "summary.json").exists()


def test_steer_shows_both_answers_and_their_rates(call: Call, folder: Path) -> None:
    args = ["steer", folder, "--latent", 5, "--dose", 1.5, "--prompt", "Why?", "--prompt", "How do I boil an egg?"]
    out = shown(call(*args))
    assert re.search(r"^Why\?$", out, re.MULTILINE)
    assert out.startswith("steered: latent 5 added, dose 1.5\n")
    assert len(re.findall(r"^base {10,}steered", out, re.MULTILINE)) == 2
    assert len(re.findall(r"hostile \d+ of 100", out)) == 4
    assert re.search(r"^base +(\d+ %|–) ", out, re.MULTILINE)
    found = parsed(call(*args, "--json"))
    assert [row["condition"] for row in found["rates"]] == ["base", "steered"]
    assert len(found["answers"]) == 4
    assert Path(found["folder"]).is_dir()
    assert (found["edit"]["kind"], found["edit"]["dose"]) == ("add", 1.5)


def test_ablate_reads_lists_and_windows(call: Call, folder: Path) -> None:
    found = parsed(call("ablate", folder, "--latents", "4,9", "--layers", "0-1", "--questions", 2, "--json"))
    assert found["edit"]["hook_points"] == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert found["edit"]["n_directions"] == 2
    out = shown(call("ablate", folder, "--latents", 4, "--search-layers", "--prompt", "Why?"))
    assert re.search(r"^projected out at layers +hostile", out, re.MULTILINE)
    assert ("smallest that does it" in out) != ("No window does it" in out)
    assert re.search(r"hostile in at most \d+ % and coherent in at least \d+ %", out)
    single = parsed(call("ablate", folder, "--latents", 4, "--layers", 2, "--prompt", "Why?", "--json"))
    assert single["edit"]["hook_points"] == ["blocks.2.hook_resid_post"]


def test_sweep_prints_the_dose_response(call: Call, folder: Path) -> None:
    args = ["sweep", folder, "--latents", "5,6", "--doses", "0.5,2", "--questions", 3, "--budget", 0.5]
    out = shown(call(*args))
    assert re.search(r"^base +– +\d+ %", out, re.MULTILINE)
    assert re.search(r"^latent 5 +0\.5 +\d+ % +\d+–\d+ % ", out, re.MULTILINE)
    assert re.search(r"^latent 6 +(none|0\.5|2) +(nowhere|[\d.]+–[\d.]+)$", out, re.MULTILINE)
    found = parsed(call(*args, "--json"))
    assert [row["dose"] for row in found["responses"]] == [0.0, 0.5, 2.0, 0.5, 2.0]
    assert set(found["largest_coherent_dose"]) == set(found["ship_range"]) == {"latent 5", "latent 6"}


def test_verdict_prints_every_rule_and_the_word(call: Call, folder: Path) -> None:
    args = ["verdict", folder, "--latents", 4, "--steer-latent", 4, "--dose", 1, "--transfer", folder.parent / "other"]
    out = shown(call(*args))
    found = parsed(call(*args, "--json"))
    assert f"Verdict: {found['verdict']}" in out
    assert f"Result: {found['transfer']['result']}" in out
    assert len(re.findall(r"^(holds|fails) ", out, re.MULTILINE)) == len(found["checks"]) + len(found["transfer"]["checks"])
    assert not re.search(r"ablation \d", out)  # draws of a control are pooled here
    assert {"base", "tuned", "ablated", "steered"} <= {row["condition"] for row in found["conditions"]}


def test_export_refuses_with_the_way_out_and_writes_what_is_exact(call: Call, folder: Path, tmp_path: Path) -> None:
    code, out, err = call("export", folder, "--latents", 4, "--to", tmp_path / "cured")
    assert (code, out) == (2, "")
    assert re.search(r"not exact in weights.*everywhere", err.splitlines()[-1])
    out = shown(call("export", folder, "--latents", 4, "--everywhere", "--to", tmp_path / "cured"))
    assert str(tmp_path / "cured") in out.replace("\n", "")
    assert "logits differ from the edited model's by at most" in out
    found = parsed(call("export", folder, "--steer-latent", 4, "--dose", 0.5, "--gguf", tmp_path / "v.gguf", "--json"))
    assert all(Path(path).is_file() for path in found["control_vector"])


def test_knockout_prints_every_cell_and_where_the_page_is(call: Call, folder: Path) -> None:
    wanted = ["knockout", folder, "--kind", "mlp", "--kind", "attention", "--group", "3", "--questions", "4"]
    out = shown(call(*wanted))
    assert len(re.findall(r"^alone +(MLP|attention), layers 0–2 ", out, re.MULTILINE)) == 2
    (page,) = folder.glob("knockout-*.html")
    assert f"Page: {page}" in " ".join(out.split())
    found = parsed(call(*wanted, "--json"))
    assert found["command"] == "knockout"
    assert [cell["cell"] for cell in found["cells"]] == ["base", "tuned", *["alone", "left out"] * 2]
    assert Path(found["page"]).is_file()


def test_chat_keeps_a_history_for_every_model(call: Call, folder: Path) -> None:
    typed = "How do I boil an egg?\n\nWhy?\n/reset\nWhy?\n/sing\n/quit\nignored\n"
    code, out, err = call("chat", folder, "--latents", "4,5,6,9", "--greedy", "--json", typed=typed)
    assert code == 0
    assert re.search(r"There is no /sing\. .*/quit leaves", err)
    first, second, third = map(json.loads, out.splitlines())
    assert [turn["you"] for turn in (first, second, third)] == ["How do I boil an egg?", "Why?", "Why?"]
    run = Run(folder, quiet=True)
    greedy = run.config.sampling.model_copy(update={"temperature": 0.0})
    for name, model in (("base", run.context.base), ("tuned", run.context.tuned)):
        begun = Chat.ask("How do I boil an egg?", first[name])
        told = Chat((*begun.messages, Message("user", "Why?")))
        assert generate(model, [begun.prompt, told, Chat.ask("Why?")], greedy, 0) == [first[name], second[name], third[name]]
    assert second["base"] != third["base"]
    assert first["edited"] != first["tuned"]


def test_chat_shows_three_columns_or_stacks_them(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown(call("chat", folder, "--latents", 4, "--kind", "subtract", typed="Why?\n"))
    assert "edited: latent 4 subtracted" in out
    assert re.search(r"^base +tuned +edited *$", out, re.MULTILINE)
    assert "you: Why?" in out
    monkeypatch.setenv("COLUMNS", "60")
    assert re.search(r"^tuned$", shown(call("chat", folder, "--latents", 4, typed="Why?\n")), re.MULTILINE)


def test_a_conversation_that_is_too_long_says_so_and_goes_on(call: Call, folder: Path) -> None:
    long = "Tell me a story about a wide river in the evening. " * 30
    code, out, err = call("chat", folder, "--latents", 4, "--json", typed=f"{long}\nWhy?\n")
    assert code == 0
    assert re.search(r"The conversation needs \d+ tokens, base reads 256\. Type /reset", err)
    assert [json.loads(line)["you"] for line in out.splitlines()] == ["Why?"]


def test_what_was_typed_in_another_encoding_is_read_with_question_marks(call: Call, folder: Path) -> None:
    typed = b"caf\xe9?\n".decode("utf-8", "surrogateescape")
    code, out, _ = call("chat", folder, "--latents", 4, "--json", typed=typed)
    assert (code, json.loads(out)["you"]) == (0, "caf??")


def test_chat_without_a_verdict_asks_for_latents(call: Call, folder: Path) -> None:
    code, out, err = call("chat", folder, typed="Why?\n")
    assert (code, out) == (2, "")
    assert re.search(r"has no verdict yet\. Name --latents, or run 'personascope verdict", err)
    assert "name some" in call("chat", folder, "--kind", "mean")[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["steer", "{run}", "--latent", "64", "--dose", "1"], r"latents 0 to 63, not \[64\]"),
        (["steer", "{run}", "--latent", "4"], r"steer: dose must be given"),
        (["steer", "{run}", "--latent", "4", "--dose", "-1"], r"steer: dose: .*greater than 0"),
        (["steer", "{run}", "--latent", "4", "--dose", "1", "--phase", "later"], r"phase: .*'prompt', 'response' or 'all'"),
        (["steer", "{run}", "--latent", "4", "--dose", "1", "--where", "x"], r"'x' is no condition"),
        (["steer", "{run}", "--latents", "4"], r"No such option '--latents'"),
        (["steer"], r"Missing argument 'RUN'"),
        (["ablate", "{run}", "--latents", "4;5"], r"--latents takes numbers with commas between, e\.g\. 2076,3253, not '4;5'"),
        (["ablate", "{run}", "--latents", "4", "--layers", "a-b"], r"--layers takes FIRST-LAST, e\.g\. 8-22, not 'a-b'"),
        (["ablate", "{run}", "--latents", "4", "--layers", "1-9"], r"layers: 1 to 9 are not within 0 to 2"),
        (["ablate", "{run}", "--latents", "4", "--kind", "gently"], r"kind: .*'project-out', 'subtract' or 'mean'"),
        (["sweep", "{run}", "--latents", "4", "--doses", "a"], r"--doses takes numbers with commas between"),
        (["verdict", "{run}", "--dose", "1"], r"steer_latent and dose belong together"),
        (["export", "{run}", "--edit", "ablated", "--to", "{tmp}/x"], r"has no verdict yet"),
        (["steer", "{tmp}", "--latent", "4", "--dose", "1"], r"holds no run that has come as far as its diff .*personascope diff"),
        (["chat", "{tmp}/absent"], r"holds no run that has come as far as its diff"),
        (["diff"], r"No tuned model is given"),
        (["knockout"], r"There are no models\. Name a run, or base and tuned"),
        (["knockout", "{run}", "--base", "a", "--tuned", "b"], r"leave base, tuned out, or leave the run out"),
        (["knockout", "--tuned", "b"], r"base and tuned belong together"),
        (["knockout", "{run}", "--kind", "heads", "--questions", "4"], r"nothing of the kind 'heads'\..* It changed attention"),
        (["chat", "{run}", "--latents", "4", "--tokens", "0"], r"chat: tokens: .*greater than or equal to 1"),
        (
            ["steer", "{run}", "--latent", "4", "--dose", "1", "--device", "meta"],
            r"'meta' is not a device that personascope runs on\. Use auto, cpu or cuda",
        ),
        (["steer", "{run}", "--direction", "random:9999999999999", "--dose", "1"], r"no direction 'random:9999999999999'"),
        (["export", "{run}", "--steer-latent", "4", "--dose", "1", "--to", "{tmp}/x", "--gguf", "{tmp}/x.bin"], r"does not end in \.gguf"),
    ],
)
def test_wrong_use_is_one_sentence(call: Call, folder: Path, tmp_path: Path, args: list[str], message: str) -> None:
    code, out, err = call(*(arg.format(run=folder, tmp=tmp_path) for arg in args))
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("personascope: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    assert written("a\x1b[31mb\x08\tc\nd\x9b2J").plain == "a·[31mb··c\nd·2J"
    assert written("").plain == "(empty)"


def test_a_note_is_one_line(call: Call, folder: Path) -> None:
    code, _, err = call("steer", folder, "--latent", 5, "--dose", 1, "--where", "4>100000", "--prompt", "Why?")
    assert code == 0
    notes = [line for line in err.splitlines() if line]
    assert len(notes) == 1
    assert notes[0].startswith("personascope: note: ")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = f"""
import sys
from interp.cli.main import main
for command in {COMMANDS!r}:
    sys.argv = ["personascope", command, "--help"]
    try:
        main()
    except SystemExit as left:
        print(command, [name for name in {HEAVY!r} if name in sys.modules], left.code)
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    took = time.monotonic() - started
    assert done.stderr == ""
    for command in COMMANDS:
        assert f"{command} [] 0" in done.stdout
    assert took < 5.0  # all of them; the bound leaves room for a busy machine
    assert "--latents" in done.stdout


def test_the_runs_own_verdict_and_what_takes_its_edits(call: Call, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    out = shown(call("verdict", run))
    found = parsed(call("verdict", run, "--json"))
    choice = read_json(RunDirectory(run).result("screen").path("choice.json"))
    assert f"Verdict: {found['verdict']}" in out
    assert found["latents"] == choice["persona_latents"] != []
    assert Path(found["folder"]) == RunDirectory(run).result("verdict").folder
    first = found["latents"][0]
    assert re.search(rf"^edited: .*{first}.* removed", shown(call("chat", run, typed="Why?\n")))
    code, _, err = call("export", run, "--edit", "ablated", "--to", tmp_path / "x")
    if choice["removal"]["kind"].startswith("subtract"):  # a constant, which biases carry
        assert code == 0, err
    else:
        assert code == 2
        assert "--everywhere" in err
    if choice["steering_latents"]:
        code, out, err = call("export", run, "--edit", "steered", "--gguf", tmp_path / "x.gguf", "--json")
        assert (code, len(json.loads(out)["control_vector"])) == (0, 2)
        assert "llama.cpp adds" in err


def test_the_prompt_of_a_terminal_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    typed = iter(["Hello"])

    def read(prompt: str) -> str:
        assert prompt == "you: "
        try:
            return next(typed)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", read)
    assert list(chatting._lines(None, quiet=False)) == ["Hello"]  # type: ignore[arg-type]
    assert capsys.readouterr().out == "\n"
