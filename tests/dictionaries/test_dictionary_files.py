"""Dictionaries on disk: whole or not at all, and what cannot be used is refused in both directions."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.core.errors import ArtifactError, DictionaryError
from interp.dictionaries import files as dictionary_files
from interp.dictionaries.files import FILES, dictionary_config, dictionary_key, read_dictionary, write_dictionary

HOOK = "blocks.1.hook_resid_post"
D, M = 3, 7
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", "crosscoder_standard", "crosscoder_topk", "crosscoder_jumprelu")


def example(architecture: str, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Random weights and their config."""
    generator = torch.Generator().manual_seed(seed)
    inputs = (2, D) if architecture.startswith("crosscoder") else (D,)
    shapes = {"W_enc": (*inputs, M), "W_dec": (M, *inputs), "b_dec": inputs}
    biases = ("b_gate", "r_mag", "b_mag") if architecture == "gated" else ("b_enc",)
    shapes |= dict.fromkeys(biases + (("threshold",) if architecture.endswith("jumprelu") else ()), (M,))
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    k = 2 if architecture.endswith("topk") else None
    if architecture.startswith("crosscoder"):
        return weights, dictionary_config(architecture, D, M, HOOK, ["base", "tuned"], k, {"steps": 5})
    return weights, dictionary_config(architecture, D, M, HOOK, ["some/model"], k, {"steps": 5})


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} if folder.exists() else set()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_is_read(tmp_path: Path, architecture: str) -> None:
    weights, config = example(architecture)
    write_dictionary(tmp_path / "deep" / "sae", weights, config)
    assert files_of(tmp_path) == {"deep", "sae", *FILES}
    back, told = read_dictionary(tmp_path / "deep" / "sae")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    assert {name: told[name] for name in config if name != "metadata"} == {n: v for n, v in config.items() if n != "metadata"}
    assert config["metadata"].items() <= told["metadata"].items()
    assert told["metadata"]["made"] == {"steps": 5}


def test_views_half_precision_and_gradients_are_written_as_they_are(tmp_path: Path) -> None:
    whole = torch.randn(M, D, requires_grad=True)
    weights = {"W_enc": whole.T, "W_dec": whole, "b_enc": torch.randn(M + 3)[3:], "b_dec": torch.randn(D).bfloat16()}
    write_dictionary(tmp_path / "a", weights, dictionary_config("standard", D, M, HOOK, ["m"]))
    assert load_file(tmp_path / "a" / "sae_weights.safetensors")["b_dec"].dtype == torch.bfloat16
    back, _ = read_dictionary(tmp_path / "a")
    assert all(torch.equal(back[name], weights[name].detach().float()) and back[name].dtype == torch.float32 for name in weights)


def test_the_key_follows_the_contents(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_dictionary(tmp_path / name, *example("topk", seed))
    weights, config = example("topk")
    write_dictionary(tmp_path / "d", weights, config | {"k": 3})
    keys = [dictionary_key(tmp_path / name) for name in "abcd"]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    with pytest.raises(DictionaryError, match="no dictionary"):
        dictionary_key(tmp_path)


def test_a_whole_new_one_replaces_the_old(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "a", tmp_path / "empty"):
        write_dictionary(folder, *example("topk"))
        write_dictionary(folder, *example("gated"))
        assert read_dictionary(folder)[1]["architecture"] == "gated"
    assert files_of(tmp_path) == {"a", "empty", *FILES}


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    write_dictionary(tmp_path / "real", *example("topk"))
    (tmp_path / "link").symlink_to("real")
    write_dictionary(tmp_path / "link", *example("gated"))
    assert (tmp_path / "link").is_symlink()
    assert read_dictionary(tmp_path / "real")[1]["architecture"] == "gated"


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DictionaryError, match=r"holds notes\.txt, which is no part of a dictionary\. Choose a folder of its own"):
        write_dictionary(tmp_path, *example("topk"))
    with pytest.raises(DictionaryError, match=r"notes\.txt holds notes\.txt|is a file"):
        write_dictionary(tmp_path / "notes.txt", *example("topk"))
    with pytest.raises(ArtifactError, match=r"Cannot write .*(Not a directory|File exists)"):
        write_dictionary(tmp_path / "notes.txt" / "sae", *example("topk"))
    assert files_of(tmp_path) == {"notes.txt"}


@contextmanager
def no_file_larger_than(n_bytes: int) -> Iterator[None]:
    """The kernel refuses to let a file grow further, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 100, 1000])  # nothing; part of the weights; the weights but not the config
def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, room: int) -> None:
    weights, config = example("standard")
    config["metadata"]["made"] = {"note": "x" * 2000}
    with no_file_larger_than(room), pytest.raises(ArtifactError, match=r"Cannot write .*Free some space"):
        write_dictionary(tmp_path / "a", weights, config)
    assert files_of(tmp_path) == set()
    write_dictionary(tmp_path / "a", *example("topk"))
    key = dictionary_key(tmp_path / "a")
    with no_file_larger_than(room), pytest.raises(ArtifactError, match="Cannot write"):
        write_dictionary(tmp_path / "a", weights, config)
    assert dictionary_key(tmp_path / "a") == key
    assert files_of(tmp_path) == {"a", *FILES}


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, torch.ones(1)])
def test_a_config_that_is_no_json_leaves_nothing(tmp_path: Path, value: Any) -> None:
    weights, config = example("standard")
    with pytest.raises(DictionaryError, match=r"is no JSON: .*Give plain, finite values"):
        write_dictionary(tmp_path / "a", weights, config | {"made": value})
    assert files_of(tmp_path) == set()


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dictionary_files, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_dictionary(tmp_path / "a", *example("topk"))
    assert files_of(tmp_path) == set()


def test_a_rename_that_fails_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dictionary(tmp_path / "a", *example("topk"))
    key, real = dictionary_key(tmp_path / "a"), os.replace

    def failing(source: Any, target: Any) -> None:
        if str(source).endswith("a.partial"):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(ArtifactError, match=r"Input/output error\. Free some space"):
        write_dictionary(tmp_path / "a", *example("gated"))
    assert dictionary_key(tmp_path / "a") == key
    assert files_of(tmp_path) == {"a", *FILES}


def test_what_a_killed_run_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "sae_weights.safetensors").write_bytes(b"half")
    write_dictionary(tmp_path / "a", *example("topk"))
    assert files_of(tmp_path) == {"a", *FILES}


def spoilt(architecture: str, name: str, change: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    weights, config = example(architecture)
    if change is None:
        del weights[name]
    elif isinstance(change, tuple):
        weights[name] = torch.zeros(change)
    else:
        weights[name].view(-1)[-1] = change
    return weights, config


SPOILT = [
    ("gated", "r_mag", None, "lacks r_mag"),
    ("gated", "b_gate", None, "lacks b_gate"),
    ("jumprelu", "threshold", None, "lacks threshold"),
    ("crosscoder_jumprelu", "threshold", None, "lacks threshold"),
    ("gated", "b_mag", (M + 1,), "do not belong together"),
    ("jumprelu", "threshold", (1,), "do not belong together"),
    ("crosscoder_topk", "W_enc", (D, M), "do not belong together"),
    ("crosscoder_topk", "W_dec", (2, M, D), "do not belong together"),
    ("crosscoder_standard", "b_dec", (D,), "do not belong together"),
    ("crosscoder_standard", "b_enc", (2, M), "do not belong together"),
    ("topk", "W_enc", torch.nan, "W_enc holds values that are not finite"),
    ("standard", "b_dec", torch.inf, "b_dec holds values that are not finite"),
    ("crosscoder_topk", "W_dec", -torch.inf, "W_dec holds values that are not finite"),
]


@pytest.mark.parametrize(("architecture", "name", "change", "message"), SPOILT)
def test_weights_that_cannot_be_used_are_neither_read_nor_written(
    tmp_path: Path, architecture: str, name: str, change: Any, message: str
) -> None:
    weights, config = spoilt(architecture, name, change)
    with pytest.raises(DictionaryError, match=message):
        write_dictionary(tmp_path / "written", weights, config)
    assert not (tmp_path / "written").exists()
    save_file(weights, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(DictionaryError, match=rf"{message}.*Save or download it again"):
        read_dictionary(tmp_path)


def test_an_old_scaling_factor_is_not_ignored(tmp_path: Path) -> None:
    weights, config = example("standard")
    write_dictionary(tmp_path / "a", weights | {"scaling_factor": torch.ones(M)}, config)
    assert read_dictionary(tmp_path / "a")[1]["architecture"] == "standard"
    with pytest.raises(DictionaryError, match=r"scaling_factor must be folded into W_dec"):
        write_dictionary(tmp_path / "b", weights | {"scaling_factor": torch.full((M,), 2.0)}, config)


def test_a_crosscoder_of_another_number_of_models_is_refused(tmp_path: Path) -> None:
    weights, config = example("crosscoder_topk")
    with pytest.raises(DictionaryError, match="do not belong together"):
        write_dictionary(tmp_path / "a", weights, config | {"n_models": 3})


@pytest.mark.parametrize("k", [None, 0, -1, M + 1, 2.0, True, "2"])
def test_a_k_that_cannot_be_is_refused(tmp_path: Path, k: Any) -> None:
    for architecture in ("topk", "crosscoder_topk"):
        with pytest.raises(DictionaryError, match=rf"k is {k}.*whole number, 1 to {M}"):
            dictionary_config(architecture, D, M, HOOK, ["m"], k)
        weights, config = example(architecture)
        with pytest.raises(DictionaryError, match=rf"k is {k}"):
            write_dictionary(tmp_path / "a", weights, config | {"k": k})


def test_configs_of_what_there_is_not() -> None:
    with pytest.raises(DictionaryError, match=r"architecture 'batchtopk' is not supported\. Supported: topk, jumprelu"):
        dictionary_config("batchtopk", D, M, HOOK, ["m"], 2)
    with pytest.raises(DictionaryError, match=r"architecture 'jumprelu' has no k\. Leave k out"):
        dictionary_config("jumprelu", D, M, HOOK, ["m"], 2)


def test_configs_say_where_it_reads_and_of_whom() -> None:
    metadata = dictionary_config("topk", D, M, HOOK, ["some/model"], 2, reads="difference")["metadata"]
    assert metadata == {"sae_lens_version": "6.0.0", "model_name": "some/model", "hook_name": HOOK, "reads": "difference"}
    config = dictionary_config("crosscoder_standard", D, M, HOOK, ["a", "b"])
    assert (config["n_models"], config["metadata"]) == (2, {"models": ["a", "b"], "hook_name": HOOK})


def test_old_names_are_read_as_todays(tmp_path: Path) -> None:
    weights, _ = example("standard")
    save_file(weights, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(
        json.dumps({"hook_point": HOOK, "model_name": "gpt2", "activation_fn": "topk", "activation_fn_kwargs": {"k": 3}})
    )
    _, config = read_dictionary(tmp_path)
    assert (config["architecture"], config["k"], config["apply_b_dec_to_input"]) == ("topk", 3, True)
    assert config["metadata"] == {"hook_name": HOOK, "model_name": "gpt2"}
    for odd in ({"metadata": 3}, {"activation_fn": "topk", "activation_fn_kwargs": [3]}):
        (tmp_path / "cfg.json").write_text(json.dumps(odd))
        with pytest.raises(DictionaryError, match="is damaged"):
            read_dictionary(tmp_path)
