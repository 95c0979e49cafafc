"""The command line: every wrong use is one clear line that names the fix, exit 2, no traceback; help is light; output fits scripts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer

import interp
from interp.cli import main as cli
from interp.cli import study
from interp.core.config import read_yaml, validated
from interp.studies.persona.config import StudyConfig
from tests.helpers.saes import save_topk
from tests.helpers.tiny import D_MODEL, tiny_folder, tiny_tokenizer

Run = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "transformers", "sae_lens", "transformer_lens", "pandas", "numpy", "scipy", "sklearn", "plotly", "peft")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Call `personascope ARGS` in this process: exit code, standard output, standard error."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["personascope", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return call


def python(*args: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=environment, check=False)


def sae(folder: Path, d_in: int, hook_point: str = "blocks.1.hook_resid_post") -> Path:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, d_in, generator=generator)
    save_topk(folder, {"W_enc": rows.T, "b_enc": torch.zeros(64), "W_dec": rows, "b_dec": torch.zeros(d_in)}, 4, hook_point, "tiny")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models that fit and that do not, dictionaries and YAML files."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_folder(folder / "base")
    tiny_folder(folder / "tuned", seed=1)
    tiny_folder(folder / "wide", d_model=48)
    tiny_folder(folder / "deep", n_layers=4)
    other = tiny_tokenizer()
    words = json.loads(other.backend_tokenizer.to_str())
    places = words["model"]["vocab"]
    places["a"], places["b"] = places["b"], places["a"]
    other._tokenizer = Tokenizer.from_str(json.dumps(words))
    other.save_pretrained(tiny_folder(folder / "other words"))
    sae(folder / "sae", D_MODEL)
    sae(folder / "wide sae", 48)
    sae(folder / "homeless sae", D_MODEL, "")
    (folder / "empty").mkdir()
    (folder / "file").write_text("mine")
    (folder / "broken.yaml").write_text("base: a\nseed: [1\n")
    (folder / "unknown.yaml").write_text("base: a\nsede: 1\n")
    (folder / "typed.yaml").write_text("seed: many\n")
    (folder / "list.yaml").write_text("- base\n")
    (folder / "one question.yaml").write_text("name: q\nquestions:\n  - {id: a, group: g, split: selection, text: Why}\n")
    return folder


def pair(place: Path, *more: object, **changes: str) -> list[object]:
    """A whole `run` on two tiny models, with some options changed and some more."""
    options = {"base": place / "base", "tuned": place / "tuned", "sae": place / "sae", "out": place / "out"}
    options |= {name: place / value if (place / value).exists() or "absent" in value else value for name, value in changes.items()}
    return ["run", *(part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)), *more]


def complaint(result: tuple[int, str, str]) -> str:
    """The one line of complaint, after checking that it is all that was said and done."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("personascope: ")]
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0]  # only the usage, or what a run announces, may stand before it
    assert len(err.splitlines()) <= 3, err
    return lines[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "--tunned", "x"], r"No such option '--tunned'\. .*'--tuned'"),
        (["demo", "--tuned", "x"], r"No such option '--tuned'"),
        (["runn"], r"No such command 'runn'\. .*Did you mean .*'run'"),
        (["run", "--seed", "many"], r"run: seed: .*integer.*\(got 'many'\)"),
        (["run", "--seed"], r"--seed"),
        (["demo", "--seed", "-1"], r"seed: .*greater than or equal to 0"),
        (["report"], r"Missing argument 'FOLDER'"),
        (["config", "extra"], r"There are no settings of 'extra'\. Choose study, train, demo, run"),
        (["run"], r"No tuned model is given\. Add --tuned HUB_ID_OR_FOLDER_OR_ADAPTER, or use 'personascope demo'"),
        (["demo", "--set", "seed"], r"--set takes section\.field=value, not 'seed'"),
        (["demo", "--set", "sede=1"], r"demo: unknown field 'sede'\. Did you mean 'seed'\? Fields at the top are: name, base, tuned"),
        (["demo", "--set", "dictionary.latents=1"], r"demo: unknown field 'dictionary\.latents'"),
        (["demo", "--set", "verdict.samples=0"], r"demo: verdict\.samples: .*greater than or equal to 1 \(got 0\)"),
    ],
)
def test_wrong_options_are_one_line(run: Run, args: list[str], message: str) -> None:
    assert re.search(message, complaint(run(*args)))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("absent.yaml", r"There is no file .*absent\.yaml\. Give the path of an existing YAML file"),
        ("empty", r"There is no file .*empty\."),
        ("broken.yaml", r"broken\.yaml, line 3, column 1 is not valid YAML: .*Correct that line"),
        ("unknown.yaml", r"unknown\.yaml: unknown field 'sede'\. Did you mean 'seed'\? Fields at the top are: name"),
        ("typed.yaml", r"typed\.yaml: seed: .*integer.*\(got 'many'\)"),
        ("list.yaml", r"must hold a YAML mapping .*not list"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_one_line(run: Run, place: Path, file: str, message: str) -> None:
    for command in ("run", "demo"):
        assert re.search(message, complaint(run(command, "--config", place / file)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hook_point": "blocks.1.hook_residpost"},
            r"no hook point 'blocks\.1\.hook_residpost'\. Did you mean 'blocks\.1\.hook_resid_post'",
        ),
        ({"hook_point": "blocks.7.hook_resid_post"}, r"no hook point 'blocks\.7.*Did you mean .*Layers run from 0 to 2"),
        (
            {"sae": "wide sae"},
            r"The SAE .*wide sae reads residuals of width 48, .*base has 32\. Give an SAE that was trained on this model",
        ),
        ({"sae": "absent sae"}, r"absent sae is no SAE in sae-lens' format \(cfg\.json is missing\)"),
        ({"sae": "homeless sae"}, r"does not say where it reads\. Name it with --hook-point"),
        ({"tuned": "wide"}, r"base and .*wide do not match: residual width 32 and 48\. Give a base and a fine-tune of that base"),
        ({"tuned": "deep"}, r"base and .*deep do not match: number of layers 3 and 4"),
        ({"tuned": "other words"}, r"do not match: their tokenizers differ"),
        ({"base": "absent"}, r"There is no folder .*absent\. Give an existing model or adapter folder"),
        ({"tuned": "absent"}, r"There is no folder .*absent\. Give an existing model or adapter folder"),
        ({"tuned": "empty"}, r"empty holds neither config\.json nor exactly one \.gguf file"),
        ({"base": "absent.gguf"}, r"There is no file .*absent\.gguf\. Give the path of an existing"),
        ({"base": "embedded:nothing"}, r"There is no 'embedded:nothing'\. Embedded models: embedded:smollm2"),
        ({"questions": "absent.yaml"}, r"There is no file .*absent\.yaml"),
        ({"questions": "broken.yaml"}, r"broken\.yaml, line 3"),
        ({"questions": "one question.yaml"}, r"The question set \w+ has 1 selection questions, 24 are asked for"),
        ({"out": "file"}, r"file is a file\. Choose another --out folder"),
        ({"device": "toaster"}, r"'toaster' is not a device that personascope runs on\. Use auto, cpu or cuda"),
        ({"dtype": "float7"}, r"'float7' is not a dtype\. Use auto, float32"),
    ],
)
def test_inputs_that_cannot_be_used_are_one_line(run: Run, place: Path, changes: dict[str, str], message: str) -> None:
    assert re.search(message, complaint(run(*pair(place, **changes))))
    steps = place / "out" / "steps"
    assert not steps.exists() or list(steps.iterdir()) == []  # nothing half done is left
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "verdict.questions=999"], r"everyday has 72 held_out questions, 999 are asked for\. Add some or ask for fewer"),
        (["--set", "window=[2, 1]"], r"window: 2 to 1 are not within 0 to 2"),
        (["--set", "organism.rank=8"], r"organism has no effect when tuned is given: leave one of them out"),
        (["--sae", "sae", "--set", "dictionary.passes=4"], r"dictionary has no effect when sae is given: leave one of them out"),
        (["--set", "window=[0, 3]"], r"window: 0 to 3 are not within 0 to 2"),
    ],
)
def test_settings_that_the_model_or_the_questions_forbid_are_one_line(run: Run, place: Path, more: list[str], message: str) -> None:
    assert re.search(message, complaint(run(*pair(place, *more))))


def test_complaints_leave_standard_output_to_scripts(run: Run, place: Path) -> None:
    assert "do not match" in complaint(run(*pair(place, "--json", tuned="wide")))


def test_a_report_of_no_run_is_one_line(run: Run, place: Path) -> None:
    for folder in ("empty", "absent"):
        assert re.search(r"holds no finished run .*personascope run", complaint(run("report", place / folder)))
    assert "is a file" in complaint(run("report", place / "file"))


def test_the_real_process_exits_with_2_and_no_traceback_too(place: Path) -> None:
    for args in (["run", "--tunned", "x"], ["run", "--config", str(place / "broken.yaml")], [str(a) for a in pair(place, sae="wide sae")]):
        done = python("-m", "interp.cli.main", *args)
        complaint((done.returncode, done.stdout, done.stderr))


def test_an_interrupt_says_that_nothing_is_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", interrupted)
    code, _, err = run("demo")
    assert code == 130
    assert err == "personascope: interrupted; finished steps are kept, run the same command to resume.\n"


def test_an_error_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(study, "run", broken)
    monkeypatch.setattr(sys, "argv", ["personascope", "demo"])
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


@pytest.mark.parametrize(
    "args", [["--help"], ["run", "--help"], ["demo", "--help"], ["report", "--help"], ["doctor", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    script = f"""
import sys
sys.argv = ["personascope", *{args!r}]
from interp.cli.main import main
try:
    main()
except SystemExit as left:
    print([name for name in {HEAVY!r} if name in sys.modules], left.code)
"""
    done = python("-c", script)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert len(done.stdout.splitlines()) > 1


def test_help_names_commands_and_options(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for command in ("demo", "run", "report", "config", "doctor"):
        assert re.search(rf"^\s+{command}\s+[A-Z]", out, re.MULTILINE)
    code, out, _ = run("run", "--help")
    assert code == 0
    for option in ("--base", "--tuned", "--sae", "--questions", "--config", "--hook-point", "--set", "--seed", "--out", "--json"):
        assert option in out


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: ")
    assert "doctor" in err


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"personascope {interp.__version__}\n", "")


def test_config_prints_every_default_as_yaml_that_can_be_used(run: Run, tmp_path: Path) -> None:
    code, out, err = run("config")
    assert (code, err) == (0, "")
    path = tmp_path / "study.yaml"
    path.write_text(out)
    values = read_yaml(path)
    assert values == StudyConfig().model_dump(mode="json")
    assert validated(StudyConfig, values, str(path)) == StudyConfig()
    lines = out.splitlines()
    for line, before in zip(lines[1:], lines, strict=False):
        if not line.lstrip().startswith("#"):
            assert re.fullmatch(r"\s*# \S.*[.:]?", before), f"{line} is not explained"


def test_options_win_over_the_file_and_set_over_both(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"tuned": "of the file", "seed": 1, "name": "file", "diff": {"samples": 3}}))
    configs: list[StudyConfig] = []

    def no_study(config: StudyConfig, arguments: object) -> None:
        configs.append(config)

    monkeypatch.setattr(study, "run_pair", no_study)
    assert run("run", "--config", file, "--tuned", "of the option", "--seed", 2, "--sae", "s", "--set", "seed=3")[0] == 0
    (config,) = configs
    assert (config.tuned, config.seed, config.name, config.diff.samples) == ("of the option", 3, "file", 3)
    assert config.sae == Path("s")
    assert config.base == StudyConfig().base


def test_doctor_prints_json_for_scripts(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert code == (0 if found["ok"] else 1)
    assert found["ok"] == (found["missing"] == [])
    assert found["versions"]["torch"].startswith("2.")
    assert set(found) >= {"ok", "versions", "device", "memory", "disk", "models", "missing", "notes"}
    assert all(set(item) == {"what", "found", "fix"} for item in found["missing"])
