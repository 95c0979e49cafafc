"""Dictionaries by name: published sae-lens releases, and folders on the Hugging Face hub.

Importing sae_lens takes many seconds, so it happens only when a release is fetched for the first time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError

from interp.core.errors import DictionaryError, did_you_mean, reason_of
from interp.core.fingerprints import content_key
from interp.dictionaries.files import CONFIG_FILE, SAES, check_dictionary, dictionary_key, read_dictionary, write_dictionary
from interp.dictionaries.formats import find_format
from interp.dictionaries.hub import download, network_errors
from interp.dictionaries.lens_config import honoured
from interp.dictionaries.load import dictionary_from
from interp.dictionaries.sae import SAE
from interp.models.sources import cache_folder

RELEASE, HUB, PICKLE = "sae-lens:", "hub:", "pickle:"
SAID_HERE = r"\s*This SAE has non-empty model_from_pretrained_kwargs|norm_scaling_factor not found"
"""Beginnings of warnings of sae-lens; all others are shown."""


def resolve_dictionary(spec: str | Path) -> Path:
    """The local folder that `spec` names: a folder, `sae-lens:RELEASE/ID` or `hub:OWNER/REPO[/SUBFOLDER][@REVISION]`.

    `pickle:` before a folder, a file or `hub:…` allows formats that are pickles, of which tensors alone are read (torch's `weights_only`).
    A release or a pickle is converted once, into the cache folder.

    Raises `DictionaryError` for a name that is malformed or unknown, for what
    cannot be converted, and when it must be fetched and cannot be. Whether a local folder holds a dictionary is seen on loading.
    """
    text = str(spec)
    if text.startswith(PICKLE):
        return _unpickled(resolve_dictionary(text.removeprefix(PICKLE)))
    if text.startswith(RELEASE):
        release, slash, sae_id = text.removeprefix(RELEASE).partition("/")
        if not (release and slash and sae_id):
            raise DictionaryError(f"'{text}' names no SAE of a release. Write {RELEASE}RELEASE/ID, or {HUB}OWNER/REPO/FOLDER.")
        return _converted(release, sae_id)
    if text.startswith(HUB):
        name, _, revision = text.removeprefix(HUB).partition("@")
        owner, _, rest = name.strip("/").partition("/")
        repository, _, subfolder = rest.partition("/")
        if not (owner and repository):
            raise DictionaryError(f"'{text}' names no repository. Write {HUB}OWNER/REPO, {HUB}OWNER/REPO/FOLDER or add @REVISION.")
        return download(f"{owner}/{repository}", subfolder or None, revision or None)
    return Path(spec).expanduser()


def _converted(release: str, sae_id: str) -> Path:
    """The cached copy of a release's SAE in our format, made on first use."""
    version = metadata.version("sae-lens")
    made = {"release": release, "sae_id": sae_id, "sae_lens": version}
    return _kept(content_key(made), lambda folder: load_pretrained(release, sae_id).save(folder, made))


def _unpickled(path: Path) -> Path:
    """The cached copy of a pickled SAE in our format, made on first use; the folder itself where nothing is pickled."""
    found = find_format(path)
    if found is None or not found.format.pickled:
        return path
    return _kept(dictionary_key(path), lambda folder: write_dictionary(folder, *read_dictionary(path, unpickle=True)))


def _kept(key: str, make: Callable[[Path], None]) -> Path:
    """The dictionary's folder in the cache, made where it is not there yet."""
    folder = cache_folder() / "dictionaries" / key[:20]
    if not (folder / CONFIG_FILE).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / CONFIG_FILE).is_file():
                make(folder)
    return folder


def load_pretrained(release: str, sae_id: str, device: torch.device | str = "cpu") -> SAE:
    """A published SAE of sae-lens' list (or of a hub repository in its format, as `OWNER/REPO`), fetched where it is not cached.

    Raises `DictionaryError` for a release or id that is not known, naming the nearest, for one that cannot be fetched, and for
    one that `SAE` cannot express (transcoders, inputs normalised token by token).
    """
    from sae_lens import SAE as LensSAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    if release in known:
        _check_known(sae_id, known[release].saes_map, f"The release {release} has no SAE")
    elif "/" not in release:
        _check_known(release, known, "sae-lens has no release")
    failures: tuple[type[Exception], ...] = (*network_errors(), KeyError, RuntimeError, SafetensorError)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=SAID_HERE)  # what is refused below, or said in our own words
            sae = LensSAE.from_pretrained(release, sae_id, device="cpu")
    except failures as error:
        reason = reason_of(error)
        raise DictionaryError(
            f"Cannot get {sae_id} of {release}: {reason}. Connect to the network (and unset HF_HUB_OFFLINE), or give a folder."
        ) from error
    return from_sae_lens(sae, f"{sae_id} of {release}", device)


def _check_known(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise DictionaryError(f"{what} '{name}'.{did_you_mean(name, known, 3, 0.0)}")


def from_sae_lens(sae: Any, name: str = "The SAE", device: torch.device | str = "cpu") -> SAE:
    """An sae-lens SAE for inference as an `SAE`; raises `DictionaryError`, naming it, for what cannot be expressed."""
    config = sae.cfg.to_dict()
    if config["architecture"] not in SAES or hasattr(sae, "training_forward_pass"):
        kind = type(sae).__name__
        raise DictionaryError(f"{name} is a {kind}, which is not supported. Supported: sae-lens' SAEs for inference ({', '.join(SAES)}).")
    how = config["normalize_activations"]
    if how == "expected_average_only_in":
        raise DictionaryError(f"{name} wants inputs scaled by a factor that its release does not give. Fold the factor in with sae-lens.")
    if how != "none":
        raise DictionaryError(f"{name} normalises every token of its input ({how}), which no fixed weights can express. Choose another.")
    weights = {key: tensor.detach().float().to(device) for key, tensor in sae.state_dict().items()}
    check_dictionary(weights, config, name, "Choose another.")
    words = {key: config["metadata"].get(key) or "" for key in ("hook_name", "model_name", "reads")}
    weights = honoured(weights, config | {"metadata": config["metadata"] | words}, name)
    dictionary = dictionary_from(weights, config | {"metadata": words})
    assert isinstance(dictionary, SAE)
    return dictionary
