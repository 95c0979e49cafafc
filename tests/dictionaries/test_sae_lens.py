"""Agreement with sae-lens, in both directions: files, objects, published releases. One module, because importing it takes 15 s."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.core.errors import DictionaryError
from interp.dictionaries.files import dictionary_config, write_dictionary
from interp.dictionaries.load import load_dictionary
from interp.dictionaries.pretrained import from_sae_lens, load_pretrained, resolve_dictionary
from interp.dictionaries.sae import SAE
from tests.helpers.small_hub import Hub, Repository, small_hub

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

HOOK = "blocks.1.hook_resid_post"
D_IN, LATENTS = 12, 40
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
TRAINED = ("standard", "topk", "topk rescaled", "batchtopk", "batchtopk rescaled", "matryoshka", "jumprelu", "gated")


@pytest.fixture(scope="module")
def lens() -> Any:
    import sae_lens

    return sae_lens


def random_weights(architecture: str, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (D_IN, LATENTS), "W_dec": (LATENTS, D_IN), "b_dec": (D_IN,)}
    shapes |= dict.fromkeys(("b_gate", "r_mag", "b_mag") if architecture == "gated" else ("b_enc",), (LATENTS,))
    weights = {name: torch.randn(shape, generator=generator) / shape[0] ** 0.5 for name, shape in shapes.items()}  # outputs near 1
    return weights | ({"threshold": torch.linspace(0.0, 1.5, LATENTS)} if architecture == "jumprelu" else {})


def residuals(tokens: int = 200, seed: int = 1) -> torch.Tensor:
    return torch.randn(tokens, D_IN, generator=torch.Generator().manual_seed(seed))


def agree(dictionary: SAE, sae: Any) -> None:
    """The same latents, activations and reconstructions; sae-lens leaves it to the model to centre residuals."""
    x = residuals()
    codes = dictionary.encode(x)
    mine = codes.dense()
    centred = (sae.cfg.metadata.model_from_pretrained_kwargs or {}).get("center_writing_weights")
    with torch.no_grad():
        acts = sae.encode(x - x.mean(-1, keepdim=True) if centred else x)
        reconstruction = sae.decode(acts)
    torch.testing.assert_close(mine, acts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dictionary.decode(codes), reconstruction, atol=1e-5, rtol=1e-5)
    assert int((acts > 0).sum()) > 200  # something fires
    assert int((acts == 0).sum()) > 200  # and something does not


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sae_lens_reads_what_we_write(lens: Any, tmp_path: Path, architecture: str, subtract: bool) -> None:
    config = dictionary_config(
        architecture, D_IN, LATENTS, HOOK, ["some/model"], 6 if architecture == "topk" else None, {"steps": 7}, reads="difference"
    )
    write_dictionary(tmp_path / "a", random_weights(architecture), config | {"apply_b_dec_to_input": subtract})
    sae = lens.SAE.load_from_disk(tmp_path / "a")
    assert sae.cfg.architecture() == architecture
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name) == (HOOK, "some/model")
    assert (sae.cfg.metadata.reads, sae.cfg.metadata.made) == ("difference", {"steps": 7})  # sae-lens keeps what it does not know
    agree(load_dictionary(tmp_path / "a"), sae)


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "topk rescaled"])
def test_we_read_what_sae_lens_writes(lens: Any, tmp_path: Path, architecture: str, subtract: bool) -> None:
    name, _, rescaled = architecture.partition(" ")
    common = {"d_in": D_IN, "d_sae": LATENTS, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": subtract}
    if name == "topk":
        common |= {"k": 6, "rescale_acts_by_decoder_norm": bool(rescaled)}
    sae = lens.SAE.from_dict(common | {"architecture": name, "metadata": {"hook_name": HOOK, "reads": "difference"}})
    sae.load_state_dict(random_weights(name, 3))
    sae.save_model(tmp_path / "a")
    loaded = load_dictionary(tmp_path / "a")
    assert (loaded.architecture, loaded.hook_point, loaded.reads) == (name, HOOK, "difference")
    agree(loaded, sae)
    agree(from_sae_lens(sae), sae)


def trained_by(lens: Any, name: str) -> Any:
    """One of sae-lens' training SAEs with random weights, after a few of its own steps so that its thresholds have moved."""
    kind, _, rescaled = name.partition(" ")
    common: dict[str, Any] = {"d_in": D_IN, "d_sae": LATENTS, "dtype": "float32", "device": "cpu", "decoder_init_norm": None}
    prefix = {"standard": "Standard", "topk": "TopK", "batchtopk": "BatchTopK", "matryoshka": "MatryoshkaBatchTopK",
              "jumprelu": "JumpReLU", "gated": "Gated"}[kind]  # fmt: skip
    if "topk" in kind or kind == "matryoshka":
        common |= {"k": 6, "rescale_acts_by_decoder_norm": bool(rescaled) or kind == "matryoshka"}
    if kind == "matryoshka":
        common["matryoshka_widths"] = [8, 20, LATENTS]
    sae = getattr(lens, f"{prefix}TrainingSAE")(getattr(lens, f"{prefix}TrainingSAEConfig")(**common))
    with torch.no_grad():
        for parameter, value in random_weights(kind, 5).items():
            getattr(sae, parameter).copy_(value)
    from sae_lens.saes.sae import TrainStepInput

    optimizer = torch.optim.SGD(sae.parameters(), lr=1e-4)
    for step in range(300 if "topk" in kind or kind == "matryoshka" else 3):
        coefficients = dict.fromkeys(sae.get_coefficients(), 1.0)
        step_input = TrainStepInput(residuals(64, step), coefficients, None, step, False)
        sae.training_forward_pass(step_input).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    sae.cfg.metadata.hook_name = HOOK
    return sae


@pytest.mark.parametrize("name", TRAINED)
def test_we_read_what_sae_lens_trains(lens: Any, tmp_path: Path, name: str) -> None:
    sae = trained_by(lens, name)
    sae.save_inference_model(tmp_path / "a")
    loaded = load_dictionary(tmp_path / "a")
    expected = name.split()[0]
    assert loaded.architecture == ("jumprelu" if expected in ("batchtopk", "matryoshka") else expected)
    assert loaded.hook_point == HOOK
    if loaded.threshold is not None and expected != "jumprelu":
        assert float(loaded.threshold.min()) > 0.05  # it learned one
    agree(loaded, lens.SAE.load_from_disk(tmp_path / "a"))
    with pytest.raises(DictionaryError, match=r"The SAE is a \w+TrainingSAE, which is not supported"):
        from_sae_lens(sae)


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_object_of_sae_lens_is_the_dictionary_it_was_loaded_from(lens: Any, tmp_path: Path, architecture: str, subtract: bool) -> None:
    config = dictionary_config(architecture, D_IN, LATENTS, HOOK, ["some/model"], 6 if architecture == "topk" else None, reads="difference")
    write_dictionary(tmp_path / "a", random_weights(architecture), config | {"apply_b_dec_to_input": subtract})
    dictionary = load_dictionary(tmp_path / "a")
    sae = lens.SAE.load_from_disk(tmp_path / "a")
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.reads) == (HOOK, "difference")
    agree(dictionary, sae)
    back = from_sae_lens(sae)
    for name in (field.name for field in fields(dictionary)):
        mine, theirs = getattr(dictionary, name), getattr(back, name)
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, name


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "standard", "hook_name": HOOK},  # what the config leaves out has the format's default
        {"hook_name": HOOK, "normalize_activations": False},
        {"architecture": "standard", "hook_name": HOOK, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6}},
        {"architecture": "standard", "hook_point": HOOK, "activation_fn": "topk", "activation_fn_kwargs": {"k": 6}},
        {"architecture": "standard", "hook_name": HOOK, "rescale_acts_by_decoder_norm": True},  # means nothing but to TopK
    ],
)
def test_old_and_sparing_configs_mean_what_they_mean_to_sae_lens(lens: Any, tmp_path: Path, config: dict[str, Any]) -> None:
    save_file(random_weights("standard"), tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": D_IN, "d_sae": LATENTS, "dtype": "float32", "device": "cpu", **config}))
    sae = lens.SAE.load_from_disk(tmp_path)
    loaded = load_dictionary(tmp_path)
    assert loaded.hook_point == sae.cfg.metadata.hook_name == HOOK
    agree(loaded, sae)
    assert set(load_file(tmp_path / "sae_weights.safetensors")) == {"W_enc", "b_enc", "W_dec", "b_dec"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize_activations": "expected_average_only_in"}, r"scaled by a factor that its release does not give"),
        ({"normalize_activations": "layer_norm"}, r"x of y normalises every token of its input \(layer_norm\)"),
        ({"normalize_activations": "constant_norm_rescale"}, r"no fixed weights can express"),
        ({"architecture": "matching_pursuit"}, r"x of y is a MatchingPursuitSAE, which is not supported\. Supported: .*gated"),
        ({"architecture": "abstopk"}, r"is a AbsTopKSAE, which is not supported"),
        ({"architecture": "transcoder", "d_out": D_IN, "apply_b_dec_to_input": False}, r"is a Transcoder, which is not supported"),
    ],
)
def test_what_cannot_be_expressed_is_refused(lens: Any, change: dict[str, Any], message: str) -> None:
    sae = lens.SAE.from_dict({"architecture": "standard", "d_in": D_IN, "d_sae": LATENTS} | change)
    with pytest.raises(DictionaryError, match=message):
        from_sae_lens(sae, "x of y")


def test_weights_that_are_not_finite_are_refused(lens: Any) -> None:
    sae = lens.SAE.from_dict({"architecture": "standard", "d_in": D_IN, "d_sae": LATENTS})
    with torch.no_grad():
        sae.b_enc.fill_(torch.nan)
    with pytest.raises(DictionaryError, match="x of y: b_enc holds values that are not finite"):
        from_sae_lens(sae, "x of y")


def test_names_that_are_not_known_get_the_nearest(lens: Any) -> None:
    with pytest.raises(DictionaryError, match=r"sae-lens has no release 'gpt2-small-res-jbb'\. Did you mean 'gpt2-small-res-jb' or "):
        load_pretrained("gpt2-small-res-jbb", "blocks.0.hook_resid_pre")
    with pytest.raises(
        DictionaryError, match=r"The release gpt2-small-res-jb has no SAE 'blocks\.0\.hook_resid_pr'\. Did you mean 'blocks\.0\.hook"
    ):
        resolve_dictionary("sae-lens:gpt2-small-res-jb/blocks.0.hook_resid_pr")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("PERSONASCOPE_CACHE", str(tmp_path / "cache"))
    with small_hub(tmp_path / "hub cache", monkeypatch) as running:
        yield running


def published(hub: Hub, repository: str, folder: str, config: dict[str, Any]) -> None:
    """A published SAE with random weights."""
    from safetensors.torch import save

    config = {"d_in": D_IN, "d_sae": LATENTS, "dtype": "float32", "device": "cpu", "hook_name": HOOK, "model_name": "gpt2"} | config
    files = {"cfg.json": json.dumps(config).encode(), "sae_weights.safetensors": save(random_weights("standard"))}
    hub.repositories[repository] = Repository(False, commits=[{f"{folder}/{name}": data for name, data in files.items()}])


@pytest.mark.parametrize(
    ("release", "sae_id", "repository", "folder", "config"),
    [
        ("gpt2-small-res-jb", "blocks.0.hook_resid_pre", "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.0.hook_resid_pre", {}),
        (
            "gpt2-small-mlp-tm",  # its inputs are to be scaled by 1.05, which sae-lens folds in
            "blocks.0.hook_mlp_out",
            "tommmcgrath/gpt2-small-mlp-out-saes",
            "sae_group_gpt2_blocks.0.hook_mlp_out_24576:v1",
            {"normalize_activations": "expected_average_only_in"},
        ),
    ],
)
def test_a_published_release_is_fetched_once_and_agrees(
    lens: Any, hub: Hub, tmp_path: Path, release: str, sae_id: str, repository: str, folder: str, config: dict[str, Any]
) -> None:
    published(hub, repository, folder, config)
    first = resolve_dictionary(f"sae-lens:{release}/{sae_id}")
    loaded = load_dictionary(first)
    assert (loaded.hook_point, loaded.source, loaded.architecture) == (HOOK, "gpt2", "standard")
    made = json.loads((first / "cfg.json").read_text())["metadata"]["made"]
    assert (made["release"], made["sae_id"]) == (release, sae_id)
    theirs = lens.SAE.from_pretrained(release, sae_id)
    agree(loaded, theirs)
    agree(load_pretrained(release, sae_id), theirs)
    if config:
        assert not torch.allclose(loaded.w_enc, random_weights("standard")["W_enc"], rtol=0.01)
    hub.repositories.clear()
    before = len(hub.requests)
    assert resolve_dictionary(Path(f"sae-lens:{release}/{sae_id}")) == first
    assert len(hub.requests) == before


def test_warnings_of_sae_lens_are_shown(lens: Any, hub: Hub) -> None:
    """Beside our own of what its config says; not those that are said in our words."""
    repository, folder = "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.0.hook_resid_pre"
    published(hub, repository, folder, {})
    with pytest.warns(UserWarning, match="registered in the official pretrained SAEs list"):
        load_pretrained(repository, folder)
    with pytest.warns(UserWarning, match=r"was trained on centred residuals \(center_writing_weights\)") as said:
        load_pretrained("gpt2-small-res-jb", folder)
    assert not any("non-empty model_from_pretrained_kwargs" in str(warning.message) for warning in said)


def test_a_repository_in_sae_lens_format_needs_no_release(lens: Any, hub: Hub) -> None:
    published(hub, "somebody/saes", "layer 3", {})
    loaded = load_pretrained("somebody/saes", "layer 3")
    agree(loaded, lens.SAE.from_pretrained("somebody/saes", "layer 3"))
    agree(load_dictionary(resolve_dictionary("hub:somebody/saes/layer 3")), lens.SAE.from_pretrained("somebody/saes", "layer 3"))


def test_a_release_that_cannot_be_fetched_is_one_sentence(lens: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(DictionaryError, match=r"Cannot get blocks\.0\.hook_resid_pre of gpt2-small-res-jb: .*Connect to the network"):
        resolve_dictionary("sae-lens:gpt2-small-res-jb/blocks.0.hook_resid_pre")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DictionaryError, match=r"Cannot get blocks\.1\.hook_resid_pre of .*unset HF_HUB_OFFLINE") as told:
        load_pretrained("gpt2-small-res-jb", "blocks.1.hook_resid_pre")
    assert "\n" not in str(told.value)


def test_a_loaded_release_can_be_saved_again(lens: Any, tmp_path: Path) -> None:
    sae = lens.SAE.from_dict({"architecture": "topk", "d_in": D_IN, "d_sae": LATENTS, "k": 6, "rescale_acts_by_decoder_norm": True})
    sae.load_state_dict(random_weights("topk"))
    from_sae_lens(sae).save(tmp_path / "a")
    agree(load_dictionary(tmp_path / "a"), sae)
