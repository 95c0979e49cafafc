"""Dictionaries on the hub, against a small hub on this machine that speaks its HTTP API, and names that become folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from interp.core.errors import DictionaryError
from interp.dictionaries.files import FILES, dictionary_config, dictionary_key, write_dictionary
from interp.dictionaries.hub import download, upload
from interp.dictionaries.load import load_dictionary
from interp.dictionaries.pretrained import resolve_dictionary
from tests.helpers.small_hub import Hub, Repository, small_hub

REPO = "somebody/saes"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with small_hub(tmp_path / "hub cache", monkeypatch) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "sae", 0)


def written(folder: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    w_enc, w_dec = torch.randn(4, 9, generator=generator), torch.randn(9, 4, generator=generator)
    weights = {"W_enc": w_enc, "b_enc": torch.zeros(9), "W_dec": w_dec, "b_dec": torch.zeros(4)}
    write_dictionary(folder, weights, dictionary_config("topk", 4, 9, "blocks.1.hook_resid_post", ["tiny"], 2))
    return folder


@pytest.mark.parametrize("subfolder", [None, "layer 3/wide"])
def test_what_is_uploaded_comes_back_byte_for_byte(hub: Hub, folder: Path, subfolder: str | None) -> None:
    (folder / "notes.txt").write_text("not for the hub")
    address = upload(folder, REPO, subfolder)
    repository = hub.repositories[REPO]
    assert repository.private  # unless asked for otherwise
    assert address.endswith(f"/{REPO}/commit/{repository.head}")
    assert len(repository.commits) == 1  # never half a dictionary
    prefix = f"{subfolder}/" if subfolder else ""
    assert set(repository.commits[0]) == {prefix + name for name in FILES}
    back = download(REPO, subfolder)
    assert dictionary_key(back) == dictionary_key(folder)
    assert load_dictionary(back).k == 2


def test_one_repository_holds_many_and_only_the_asked_one_is_fetched(hub: Hub, folder: Path, tmp_path: Path) -> None:
    upload(folder, REPO, "a")
    upload(written(tmp_path / "other", 1), REPO, "b")
    back = download(REPO, "b")
    assert dictionary_key(back) == dictionary_key(tmp_path / "other")
    assert not (back.parent / "a").exists()
    assert not any("resolve" in request and "/a/" in request for request in hub.requests)


def test_a_revision_is_a_commit_and_main_the_last(hub: Hub, folder: Path, tmp_path: Path) -> None:
    upload(folder, REPO)
    first = hub.repositories[REPO].head
    upload(written(tmp_path / "other", 1), REPO)
    assert dictionary_key(download(REPO)) == dictionary_key(tmp_path / "other")
    assert dictionary_key(resolve_dictionary(f"hub:{REPO}@{first}")) == dictionary_key(folder)
    with pytest.raises(DictionaryError, match=r"Cannot get .*saes: the repository has no such revision\. Give a branch"):
        download(REPO, revision="absent")


def test_a_private_dictionary_is_never_put_into_a_public_repository(hub: Hub, folder: Path) -> None:
    hub.repositories[REPO] = Repository(private=False)
    with pytest.raises(DictionaryError, match=r"is there already and is public\. Pass private=False, or choose another"):
        upload(folder, REPO)
    assert hub.repositories[REPO].commits == []
    upload(folder, REPO, private=False)
    hub.repositories[REPO].private = True
    with pytest.raises(DictionaryError, match=r"is private\. Pass private=True"):
        upload(folder, REPO, private=False)


def test_only_whole_dictionaries_are_uploaded(hub: Hub, folder: Path) -> None:
    (folder / "cfg.json").write_text("{")
    with pytest.raises(DictionaryError, match="is damaged"):
        upload(folder, REPO)
    assert hub.repositories == {}


def test_what_is_cached_needs_no_network(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    upload(folder, REPO, "b")
    upload(folder, REPO, "a")
    online = resolve_dictionary(f"hub:{REPO}/a")
    before = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_dictionary(Path(f"hub:{REPO}/a")) == online  # the command line makes a Path of it
    assert len(hub.requests) == before
    with pytest.raises(DictionaryError, match=rf"Cannot get the dictionary {REPO}/b: the hub cannot be reached, and it is not in"):
        download(REPO, "b")
    with pytest.raises(DictionaryError, match=r"other/saes: the hub cannot be reached.*unset HF_HUB_OFFLINE"):
        download("other/saes")
    with pytest.raises(DictionaryError, match=r"Cannot upload .* to somebody/saes: the network is switched off\. Unset HF_HUB_OFFLINE"):
        upload(folder, REPO)


def test_every_refusal_of_the_hub_is_one_clear_sentence(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DictionaryError, match=r"no such repository, or it is private and you are not logged in.*hf auth login"):
        download(REPO)
    upload(folder, REPO, "a")
    with pytest.raises(DictionaryError, match=rf"The folder b of the repository {REPO} has no cfg\.json\. Name the folder that holds"):
        download(REPO, "b")
    with pytest.raises(DictionaryError, match=rf"The repository {REPO} has no cfg\.json.*hub:OWNER/REPO/FOLDER"):
        download(REPO)
    hub.read_only = True
    with pytest.raises(DictionaryError, match=r"the hub does not let you\. Run 'hf auth login' with a token that may write"):
        upload(folder, "somebody/else")
    hub.read_only = False
    hub.repositories["gated/saes"] = Repository(private=False, gated=True)
    with pytest.raises(DictionaryError, match=r"access is granted by its owners only"):
        download("gated/saes")
    with pytest.raises(DictionaryError, match=r"Give OWNER/REPO"):
        download("not/a/repository/at all")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(DictionaryError, match="private and you are not logged in"):
        download(REPO, "c", "main")
    with pytest.raises(DictionaryError, match=r"Cannot upload .*log.*in"):
        upload(folder, "somebody/third")


def test_a_broken_hub_and_a_hub_that_is_gone(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.broken = True
        with pytest.raises(DictionaryError, match="Cannot get the dictionary somebody/saes"):
            download(REPO)
    with pytest.raises(DictionaryError, match=r"the hub cannot be reached|Check the network"):
        download(REPO)
    with pytest.raises(DictionaryError, match=r"Cannot upload .*Check the network"):
        upload(folder, REPO)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hub:somebody", r"'hub:somebody' names no repository\. Write hub:OWNER/REPO"),
        ("hub:", "names no repository"),
        ("hub:/saes@main", "names no repository"),
        ("sae-lens:gpt2-small-res-jb", r"names no SAE of a release\. Write sae-lens:RELEASE/ID"),
        ("sae-lens:/x", "names no SAE of a release"),
    ],
)
def test_names_that_are_malformed_are_told(spec: str, message: str) -> None:
    with pytest.raises(DictionaryError, match=message):
        resolve_dictionary(spec)


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_dictionary(tmp_path / "sae") == tmp_path / "sae"
    assert resolve_dictionary("~/sae") == tmp_path / "sae"


def test_the_command_line_takes_names_too(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """A study opens `--sae hub:…` as it opens a folder; what no study can use is told with the name as it was given."""
    from interp.studies.persona.config import StudyConfig
    from interp.studies.persona.context import StudyContext
    from tests.helpers.tiny import D_MODEL, tiny_folder

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, D_MODEL, generator=generator)
    weights = {"W_enc": rows.T, "b_enc": torch.zeros(9), "W_dec": rows, "b_dec": torch.zeros(D_MODEL)}
    for name, reads in (("one", None), ("difference", "difference")):
        config = dictionary_config("topk", D_MODEL, 9, "blocks.1.hook_resid_post", ["tiny"], 2, reads=reads)
        write_dictionary(tmp_path / name, weights, config)
        upload(tmp_path / name, REPO, name)
    base = str(tiny_folder(tmp_path / "base"))
    context = StudyContext(StudyConfig(base=base, tuned=base, sae=Path(f"hub:{REPO}/one")), {}.__getitem__)
    assert context.hook_point == "blocks.1.hook_resid_post"
    assert dictionary_key(context.sae) == dictionary_key(tmp_path / "one")
    with pytest.raises(DictionaryError, match=rf"The SAE hub:{REPO}/difference reads tuned minus base residuals"):
        _ = StudyContext(StudyConfig(base=base, tuned=base, sae=Path(f"hub:{REPO}/difference")), {}.__getitem__).hook_point
