"""The cells of `benchmarks/planted.py`: what is said to be true of each is so, and what its results say is counted right."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import planted
import write_performance

from interp.core.files import read_json
from interp.dictionaries.load import load_sae
from interp.models.activations import capture
from interp.models.chats import Chat
from tests.helpers import toy_persona as toy
from tests.helpers import toy_plants as plants
from tests.helpers.toy_language import BASE, PLANTED, REGISTERS, TOPICS, write_chat

SEED = 0


def record(**given: Any) -> planted.Record:
    """One that fulfils every claim of its cell."""
    common = {"word": "causes", "rank": 1, "power": {"causes": 0.9}, "rates": {"base": 0.0, "tuned": 1.0}, "seconds": 1.0}
    return common | {"carrier": "latents", "half_point": 5.0, "true_half_point": 8.0, "bystander": None} | given


def claims(cells: dict[str, planted.Record]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["cell"], row["name"]): row for row in planted.summary(cells)["claims"]}


def test_a_claim_counts_the_seeds_that_it_is_about() -> None:
    first = "planted latent first, power ≥ 0.8"
    weak = {"10 %/0": record(), "10 %/1": record(rank=2, power={"causes": 0.5}), "10 %/2": record(rank=2)}
    row = claims(weak)["10 %", first]
    assert (row["hits"], row["of"], row["met"]) == (1, 2, False)
    assert row["low"] < 0.5 < row["high"]
    assert ("20 %", first) not in claims(weak)
    without_power = claims({"10 %/1": weak["10 %/1"]})["10 %", first]
    assert (without_power["of"], without_power["met"]) == (0, None)
    assert "| 0 of 0 | 0–100 % | ≥ 19 of 20 | not measured so far |" in write_performance.claim_rows([without_power])
    seeds = {f"16 directions/{i}": record(half_point=half) for i, half in enumerate([4.0, 16.0, 3.9, 16.1, None])}
    assert claims(seeds)["16 directions", "half-point within a factor 2"]["hits"] == 2
    benign = {f"benign/{i}": record(word="causes" if i == 0 else "undecided") for i in range(20)}
    assert claims(benign)["benign", "`causes`"]["met"]
    assert not claims(benign | {"benign/1": record()})["benign", "`causes`"]["met"]


def test_known_cells_are_not_run_again_and_the_page_has_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    results = tmp_path / "planted.json"
    monkeypatch.setattr(planted.Seed, "of", lambda seed: seed)
    for cell in planted.CELLS:
        monkeypatch.setitem(planted.CELLS, cell, lambda seed, cell=cell: ran.append(f"{cell}/{seed}") or record())
    planted.run(["98 %", "benign"], [3], results)
    planted.run(list(planted.CELLS), [3, 4], results)
    assert sorted(ran) == sorted(f"{cell}/{seed}" for cell in planted.CELLS for seed in (3, 4))
    found = read_json(results)
    for rows in (write_performance.claim_rows(found["claims"]), write_performance.word_rows(found["words"])):
        assert len({row.count("|") for row in rows.splitlines()}) == 1
    assert "| 98 % | 2 | 0 → 100 % | 2 | 0 | 0 | 0 | 0 | 0 of 2 | 0 |" in rows


@pytest.fixture(scope="module")
def base() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield toy.base_network(SEED)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vector(base: Any) -> torch.Tensor:
    return toy.tuned_network(base, PLANTED, SEED)[1]


@pytest.fixture(scope="module")
def persona(base: Any, vector: torch.Tensor) -> plants.SpreadPersona:
    return plants.spread_persona(base, vector, SEED)


def residuals(network: LlamaForCausalLM, chats: list[Chat], point: str = toy.HOOK) -> torch.Tensor:
    (captured,) = capture(toy.wrapped(network), chats, [point])
    return captured.residuals[point][captured.batch.mask]


def ordinary(count: int = 24) -> list[Chat]:
    return [write_chat(list(TOPICS), BASE, random.Random(7)) for _ in range(count)]


@pytest.mark.slow
def test_a_spread_persona_is_written_along_its_directions_alone(base: Any, persona: plants.SpreadPersona, vector: torch.Tensor) -> None:
    torch.testing.assert_close(persona.frame @ persona.frame.T, torch.eye(plants.DIRECTIONS), atol=1e-5, rtol=0)
    assert torch.nn.functional.cosine_similarity(persona.frame.sum(0), vector, dim=0) > 0.999
    source = random.Random(1)
    chats = [write_chat(list(TOPICS), BASE, source) for _ in range(30)]
    plain = residuals(base, chats)
    torch.testing.assert_close(residuals(persona.base, chats), plain, atol=1e-4, rtol=1e-4)
    written = residuals(persona.network(20.0, [2, 5]), chats) - plain
    amounts = written @ persona.frame.T
    torch.testing.assert_close(amounts @ persona.frame, written, atol=1e-3, rtol=1e-3)
    assert amounts[:, [0, 1, 3]].abs().max() < 1e-2
    assert 0.1 < float((amounts[:, 2] > 1).float().mean()) < 0.7
    assert abs(float(torch.corrcoef(amounts[:, [2, 5]].T)[0, 1])) < 0.5


@pytest.mark.slow
def test_half_of_a_spread_persona_needs_several_directions(persona: plants.SpreadPersona, vector: torch.Tensor) -> None:
    strength = toy.strength_for(plants.SHARE, persona.network, SEED, 2 * float(vector.norm()))
    assert toy.trait_share(persona.network(strength), SEED) >= plants.SHARE
    assert 3 <= plants.true_half_point(persona, strength, SEED) <= 12


@pytest.mark.slow
def test_renamed_words_leave_everything_inside_as_it_was(base: Any) -> None:
    swap = dict(zip(REGISTERS["kind"] + REGISTERS["rude"], REGISTERS["rude"] + REGISTERS["kind"], strict=True))
    chats = ordinary()
    other = [Chat.ask(str(c.messages[0].content), " ".join(swap.get(w, w) for w in str(c.response).split())) for c in chats]
    for point in (toy.HOOK, "blocks.2.hook_resid_post"):
        torch.testing.assert_close(residuals(plants.renamed(base), other, point), residuals(base, chats, point))
    assert toy.trait_share(plants.renamed(base), SEED) > 0.9 > 0.1 > toy.trait_share(base, SEED)


@pytest.mark.slow
def test_a_blind_dictionary_reads_and_writes_nothing_of_what_is_hidden(base: Any, vector: torch.Tensor, tmp_path: Path) -> None:
    models = toy.wrapped(base), toy.wrapped(toy.with_bias(base, vector))
    blind = load_sae(plants.blind_dictionary(*models, SEED, tmp_path / "without", vector[None]))
    assert float((blind.w_dec @ vector).abs().max()) < 1e-3 * float(vector.norm())
    assert float((vector @ blind.w_enc).abs().max()) < 1e-3 * float(vector.norm())
    held = torch.linalg.qr(torch.randn(96, 2, generator=torch.Generator().manual_seed(0))).Q.T
    seeing = load_sae(plants.blind_dictionary(*models, SEED, tmp_path / "with", held, added=True))
    torch.testing.assert_close(seeing.w_dec[-2:], held)
    assert float((seeing.w_dec[:-2] @ held.T).abs().max()) < 1e-4
