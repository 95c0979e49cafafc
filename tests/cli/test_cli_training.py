"""`personascope capture` and `train`: from text to dictionaries on tiny models, and every wrong use one clear line with exit 2."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from interp.cli import main as cli
from interp.core.config import validated
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.load import load_dictionary
from interp.dictionaries.loss_recovered import spliced_loss
from interp.models.activation_store import ActivationStore
from interp.models.activations import capture
from interp.models.sources import open_model
from interp.studies.persona.config import StudyConfig
from interp.studies.training import open_reading
from interp.studies.training_config import CaptureConfig, ReadingConfig, TrainingConfig
from sae_training.corpus import read_corpus
from tests.helpers.tiny import D_MODEL, tiny_folder

Run = Callable[..., tuple[int, str, str]]
POINT = "blocks.1.hook_resid_post"
QUICK = ("--set", "dictionary.passes=2", "--batch", "256")


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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pair, chats, plain text, and a store of the pair's residuals."""
    folder = tmp_path_factory.mktemp("training")
    tiny_folder(folder / "base")
    tiny_folder(folder / "tuned", seed=1)
    chats = [{"question": chat.messages[0].content, "answer": chat.response} for chat in read_corpus()[:60]]
    (folder / "chats.jsonl").write_text("\n".join(json.dumps(chat) for chat in chats))
    (folder / "broken.jsonl").write_text('{"question": "a", "answer": "b"}\n{"questions": 1}\n')
    pd.DataFrame({"text": [str(chat["answer"]) for chat in chats]}).to_parquet(folder / "texts.parquet")
    argv = ["personascope", "capture", "--base", folder / "base", "--tuned", folder / "tuned", "--text", folder / "chats.jsonl"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*map(str, argv), "--hook-point", POINT, "--out", str(folder / "store")])
        with pytest.raises(SystemExit) as left:
            cli.main()
    assert not left.value.code
    return folder


def test_a_captured_store_holds_both_models_residuals_of_the_same_tokens(place: Path) -> None:
    store = ActivationStore(place / "store")
    assert (store.index.n_models, store.index.d_model, store.index.hook_points) == (2, D_MODEL, [POINT])
    assert store.index.made["models"] == [str(place / "base"), str(place / "tuned")]
    rows = torch.cat([store.block(number)[POINT] for number in range(len(store.index.shards))])
    base = open_model(str(place / "base"), None, "cpu")
    captured = [c.residuals[POINT][c.batch.mask] for c in capture(base, read_corpus()[:60], [POINT], max_tokens=128)]
    everything = torch.cat(captured)
    assert store.n_rows <= len(everything)
    nearest = torch.cdist(rows[:50, 0], everything, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values
    torch.testing.assert_close(nearest, torch.zeros(50), atol=1e-4, rtol=0)
    assert float((rows[:, 0] - rows[:, 1]).norm(dim=-1).min()) > 0


def test_several_widths_and_k_are_trained_in_one_pass_and_load(run: Run, place: Path, tmp_path: Path) -> None:
    options = ("--store", place / "store", "--latents", 48, "--latents", 64, "--k", 4, "--k", 8, *QUICK, "--out", tmp_path / "saes")
    code, out, _ = run("train", "sae", *options, "--json")
    assert code == 0
    assert set(json.loads(out)) == {"48-k4", "48-k8", "64-k4", "64-k8"}
    for name in json.loads(out):
        dictionary = load_dictionary(tmp_path / "saes" / name / "dictionary")
        assert (f"{dictionary.n_latents}-k{dictionary.k}", dictionary.hook_point) == (name, POINT)
    code, out, _ = run("train", "sae", *options)  # finished: loaded, not trained again
    assert code == 0
    assert out.count("FVU") == 4


def test_a_crosscoder_with_dedicated_latents(run: Run, place: Path, tmp_path: Path) -> None:
    options = ("--latents", 64, "--k", 8, "--kind", "batchtopk", "--base-only", 5, "--tuned-only", 7)
    assert run("train", "crosscoder", "--store", place / "store", *options, *QUICK, "--out", tmp_path / "cc")[0] == 0
    norms = load_dictionary(tmp_path / "cc" / "dictionary").relative_norms()
    assert norms[:5].tolist() == [0.0] * 5
    assert norms[5:12].tolist() == [1.0] * 7
    assert bool(((norms[12:] > 0) & (norms[12:] < 1)).all())


def test_live_from_models_says_how_well_the_model_predicts_with_it(run: Run, place: Path, tmp_path: Path) -> None:
    options = ("--base", place / "base", "--text", place / "chats.jsonl", "--tokens", 1000, "--batch", 256, "--latents", 64, "--k", 8)
    code, out, _ = run("train", "sae", *options, "--set", "held_out=10", "--out", tmp_path / "live")
    assert code == 0
    assert "of the loss recovered" in out
    quality = json.loads((tmp_path / "live" / "quality.json").read_text())[str(place / "base")]
    assert quality["tokens"] > 100
    assert (tmp_path / "live" / "training.json").is_file()


def test_too_few_chats_to_hold_some_out_is_said(run: Run, place: Path, tmp_path: Path) -> None:
    options = ("--base", place / "base", "--text", place / "chats.jsonl", "--tokens", 512, "--batch", 256, "--latents", 64, "--k", 8)
    code, out, _ = run("train", "sae", *options, "--out", tmp_path / "few")
    assert code == 0
    assert "no loss with its reconstruction: that takes 128 chats, of which 32 are held out" in out
    assert not (tmp_path / "few" / "quality.json").exists()


def test_checkpoints_left_behind_by_a_late_kill_are_forgotten(run: Run, place: Path, tmp_path: Path) -> None:
    options = ("--store", place / "store", "--latents", 64, "--k", 8, *QUICK, "--out", tmp_path / "left")
    assert run("train", "sae", *options)[0] == 0
    (tmp_path / "left" / "checkpoints" / "step-000000001").mkdir(parents=True)
    assert run("train", "sae", *options)[0] == 0
    assert not (tmp_path / "left" / "checkpoints").exists()


@pytest.mark.parametrize("models_read", [1, 2])
def test_a_perfect_reconstruction_loses_nothing_and_the_mean_is_the_zero_of_the_scale(place: Path, models_read: int) -> None:
    models = [open_model(str(place / name), None, "cpu") for name in ("tuned", "base")]

    class Perfect:
        hook_point, n_models = POINT, models_read
        residuals_of = Dictionary.residuals_of

        def encode_models(self, residuals: torch.Tensor) -> list[torch.Tensor]:
            assert residuals.shape[1:] == (models_read, D_MODEL)
            return list(residuals.unbind(1))

        def decode_model(self, codes: torch.Tensor, model: int) -> torch.Tensor:
            return codes

        def decoder_bias(self, model: int) -> torch.Tensor:
            return torch.zeros(D_MODEL)

    loss = spliced_loss(models, Perfect(), read_corpus()[:4], which=1)  # type: ignore[arg-type]
    assert loss.spliced == pytest.approx(loss.plain, rel=1e-5)
    assert loss.recovered == pytest.approx(1.0, abs=1e-3)
    assert loss.ablated != pytest.approx(loss.plain, rel=1e-3)


@pytest.mark.parametrize("text", ["chats.jsonl", "texts.parquet"])
def test_dry_run_prints_the_cost_and_writes_nothing(run: Run, place: Path, tmp_path: Path, text: str) -> None:
    options = ("--base", place / "base", "--text", place / text, "--tokens", 2048, "--batch", 512, "--latents", 64, "--k", 8)
    code, out, _ = run("train", "sae", *options, "--out", tmp_path / "dry", "--dry-run", "--json")
    assert code == 0
    cost = json.loads(out)
    assert (cost["tokens"], cost["steps"]) == (2048, 4)
    assert min(cost["memory_bytes"], cost["disk_bytes"], cost["seconds"]) > 0
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(("of", "config"), [("train", TrainingConfig), ("capture", CaptureConfig)])
def test_config_prints_every_setting(run: Run, of: str, config: type[TrainingConfig]) -> None:
    code, out, _ = run("config", of)
    assert code == 0
    assert set(yaml.safe_load(out)) == set(config.model_fields)
    assert out.count("# ") > len(config.model_fields)


def test_a_partial_section_leaves_the_rest_of_the_studys_dictionary_as_it_is(run: Run) -> None:
    default = StudyConfig().dictionary
    narrowed = validated(StudyConfig, {"dictionary": {"learning_rate": 0.01, "architecture": {"n_latents": 64}}}, "test").dictionary
    assert narrowed.architecture.model_dump() == default.architecture.model_dump() | {"n_latents": 64}
    assert narrowed.learning_rate == 0.01
    other = validated(StudyConfig, {"dictionary": {"architecture": {"kind": "batchtopk"}}}, "test").dictionary
    assert other.architecture.kind == "batchtopk"
    code, out, _ = run("config", "study")
    assert code == 0
    assert validated(StudyConfig, yaml.safe_load(out), "printed") == StudyConfig()


def test_other_answers_to_a_held_out_question_are_not_trained_on(place: Path) -> None:
    rows = [{"question": f"Why {i}?", "answer": f"Because {j}."} for i in range(20) for j in range(3)]
    (place / "many.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    reading = open_reading(ReadingConfig(base=str(place / "base"), text=[str(place / "many.jsonl")]), held_out=5)
    trained_on = {chat.prompt for chat in reading.source.documents}  # type: ignore[attr-defined]
    assert len(reading.held_out) == 5
    assert not trained_on & {chat.prompt for chat in reading.held_out}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train sae --out OUT", r"give either store, or base"),
        ("train sae --store STORE --base BASE --out OUT", r"give either store, or base"),
        ("train sae --store STORE --tuned TUNED --out OUT", r"tuned has no effect with store"),
        ("train sae --store STORE --set skip_first=2 --out OUT", r"skip_first has no effect with store"),
        ("train sae --store nowhere --out OUT", r"nowhere is not an activation store"),
        ("train sae --base BASE --out OUT", r"give tokens, the number of tokens to train on: what is read live has no known length"),
        ("train sae --store STORE --kind topp --out OUT", r"dictionary\.architecture"),
        ("train sae --store STORE --latents 64 --k 65 --out OUT", r"k is 65, more than the 64 latents"),
        ("train sae --store STORE --latents 1000000 --out OUT", r"tokens cannot train 1000000 latents"),
        ("train sae --store STORE --hook-point blocks.0.hook_resid_post --out OUT", r"The feed has no hook point"),
        ("train sae --store STORE --kind standard --k 4 --out OUT", r"ks needs a kind of dictionary that fixes k"),
        ("train sae --store STORE --base-only 3 --out OUT", r"--base-only"),
        ("train crosscoder --base BASE --tokens 1000 --latents 64 --k 8 --out OUT", r"needs residuals of two models"),
        ("train crosscoder --store STORE --kind gated --latents 64 --out OUT", r"A gated dictionary reads one model"),
        ("train crosscoder --store STORE --latents 64 --k 8 --base-only 40 --tuned-only 24 --out OUT", r"64 latents, of 64 in all"),
        ("train crosscoder --store STORE --kind matryoshka --latents 64 --k 8 --tuned-only 4 --out OUT", r"has no dedicated latents"),
        ("train sae --store STORE --latents 64 --k 0 --out OUT", r"architecture\.topk\.k: .*greater than or equal to 1"),
        ("train sae --base BASE --text BROKEN --tokens 1000 --out OUT", r"broken\.jsonl, row 2 is no document"),
        ("train sae --base BASE --text nothing.jsonl --tokens 1000 --out OUT", r"There is no text file nothing\.jsonl"),
        ("train sae --base BASE --text corpus --text TEXTS --tokens 1000 --out OUT", r"Give one kind"),
        ("train sae --store STORE --set track=tensorboard:x --out OUT", r"track"),
        ("capture --base BASE --text CHATS --out STORE", r"store"),
        ("capture --text CHATS --out OUT", r"base"),
        ("capture --base BASE --text CHATS --hook-point blocks.9.hook_resid_post --out OUT", r"Did you mean"),
        ("config dictionary", r"Choose study, train, demo"),
    ],
)
def test_wrong_use_is_one_line(run: Run, place: Path, tmp_path: Path, command: str, message: str) -> None:
    names = {
        "OUT": tmp_path / "out",
        "STORE": place / "store",
        "BASE": place / "base",
        "TUNED": place / "tuned",
        "CHATS": place / "chats.jsonl",
        "TEXTS": place / "texts.parquet",
        "BROKEN": place / "broken.jsonl",
    }
    code, _, err = run(*(names.get(word, word) for word in command.split()))
    assert code == 2
    assert re.search(message, err.strip().splitlines()[-1]), err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "dictionary").exists()
