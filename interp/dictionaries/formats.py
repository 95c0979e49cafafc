"""SAEs in the formats of other libraries, by one table: Gemma Scope, EleutherAI's sparsify, dictionary_learning, Qwen-Scope.

Each becomes weights and settings as `files.py` names them, with that library's own arithmetic. What is no SAE of the residual stream (a
transcoder, an SAE of an MLP's output) is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from interp.core.errors import ArtifactError, DictionaryError, reason_of
from interp.core.files import read_json

Tensors = dict[str, torch.Tensor]
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    SafetensorError,
    ArtifactError,
    pickle.UnpicklingError,
)
ELSEWHERE = re.compile(r"(?<![a-z])(att|attn|mlp|transcoders?|clt|embed\w*)(?![a-z])", re.IGNORECASE)
"""In a name: what is read elsewhere than in the residual stream after a block."""
TRAINERS = {
    "AutoEncoder": ("standard", True),
    "AutoEncoderNew": ("standard", False),
    "AutoEncoderTopK": ("topk", True),
    "BatchTopKSAE": ("jumprelu", True),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True),
    "JumpReluAutoEncoder": ("jumprelu", False),
    "GatedAutoEncoder": ("gated", True),
}
"""Classes of dictionary_learning: architecture, and whether the encoder reads x - b_dec."""


@dataclass(frozen=True)
class Converted:
    """Weights in the names of `files.py`, and the settings that go with them."""

    weights: Tensors
    architecture: str
    layer: int | None
    """Block after which it reads; None where nothing says so."""
    subtract_b_dec: bool
    model: str = ""
    k: int | None = None


@dataclass(frozen=True)
class Format:
    """A file of weights beside a file of settings."""

    library: str
    weights: str
    """Name of the file, as a pattern."""
    convert: Callable[[Tensors, Mapping[str, Any], Path], Converted]
    config: str = ""
    """Name of the settings; they may be missing where the library does without."""

    @property
    def pickled(self) -> bool:
        """Whether opening the file could run code."""
        return self.weights.endswith(".pt")


@dataclass(frozen=True)
class Found:
    """A file of weights and its format."""

    format: Format
    path: Path
    files: list[Path] = field(default_factory=list)
    """All files that are read."""

    def read(self, unpickle: bool = False) -> Converted:
        """The SAE; a pickle only where `unpickle` says so, and of it tensors alone. Raises `DictionaryError`."""
        if self.format.pickled and not unpickle:
            raise DictionaryError(
                f"{self.path} is a pickle, and opening one can run code. Write pickle:{self.path} to read its tensors alone."
            )
        config = self.path.parent / self.format.config
        try:
            settings = dict(read_json(config)) if config in self.files else {}
            return self.format.convert(_tensors(self.path), settings, self.path.absolute())
        except KeyError as error:
            raise DictionaryError(f"{self.path} is no SAE of {self.format.library}: it lacks {error}. Download it again.") from error
        except UNREADABLE as error:
            raise DictionaryError(f"{self.path} cannot be read: {reason_of(error)}. Download it again.") from error


def find_format(path: Path) -> Found | None:
    """The SAE of another library that a folder or a file holds. Raises `DictionaryError` for a folder of several."""
    for known in FORMATS:
        paths = sorted(path.glob(known.weights)) if path.is_dir() else [path] if path.is_file() and path.match(known.weights) else []
        if len(paths) > 1:
            raise DictionaryError(f"{path} holds {len(paths)} SAEs of {known.library}. Name one: {paths[0]}.")
        if paths:
            config = paths[0].parent / known.config
            return Found(known, paths[0], [paths[0]] + ([config] if known.config and config.is_file() else []))
    return None


def _tensors(path: Path) -> Tensors:
    """Float tensors in float32."""
    if path.suffix == ".pt":
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            loaded = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    else:
        loaded = load_file(path)
    return {str(name): value.float() if value.is_floating_point() else value for name, value in loaded.items()}


def _gemma_scope(tensors: Tensors, config: Mapping[str, Any], path: Path) -> Converted:
    """JumpReLU of x W_enc + b_enc (Lieberum et al. 2024, arXiv:2408.05147); Gemma Scope 2 has names in lower case and a config."""
    own = {name.lower(): tensor for name, tensor in tensors.items()}
    _refuse(path, "a transcoder", bool(set(own) - {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"}) or "hf_hook_point_out" in config)
    _refuse(path, f"of the architecture {config.get('architecture')}", config.get("architecture", "jump_relu") != "jump_relu")
    place = str(config.get("hf_hook_point_in", ""))
    _refuse(path, f"one that reads {place}", bool(place) and not re.fullmatch(r"(\w+\.)*layers\.\d+\.output", place))
    named = "/".join(path.parts[-5:-1]) + "".join(re.findall(r"gemma-scope[^/]*", str(path)))  # Gemma Scope 1 has an own repository of each
    _refuse(path, "one of a component", not place and bool(ELSEWHERE.search(named)))
    weights = {"W_enc": own["w_enc"], "W_dec": own["w_dec"]} | {name: own[name] for name in ("b_enc", "b_dec", "threshold")}
    layer = _number(r"layers\.(\d+)\.", place) if place else _number(r"layer_(\d+)", "/".join(path.parts[-4:]))
    return Converted(weights, "jumprelu", layer, False, str(config.get("model_name", "")))


def _sparsify(tensors: Tensors, config: Mapping[str, Any], path: Path) -> Converted:
    """The k largest of relu((x - b_dec) W_enc + b_enc), in a folder that is called by its hook point."""
    for name in ("transcode", "skip_connection", "signed"):
        _refuse(path, f"one with {name}", bool(config.get(name)))
    _refuse(path, f"one with the activation {config.get('activation')}", config.get("activation", "topk") != "topk")
    place = path.parent.name
    layer = _number(r"(?:^|\.)(?:layers|h)[._](\d+)$", place)
    _refuse(path, f"one that reads {place}", layer is None and bool(ELSEWHERE.search(place)))
    weights = {"W_enc": tensors["encoder.weight"].T, "b_enc": tensors["encoder.bias"], "W_dec": tensors["W_dec"], "b_dec": tensors["b_dec"]}
    return Converted(weights, "topk", layer, True, k=config["k"])


def _dictionary_learning(tensors: Tensors, config: Mapping[str, Any], path: Path) -> Converted:
    """What `dictionary_learning.utils.load_dictionary` reads: a BatchTopK by its threshold, an AutoEncoder with rows of norm one."""
    trainer = config["trainer"]
    kind, place = trainer["dict_class"], str(trainer.get("submodule_name") or "/".join(path.parts[-4:-1]))
    _refuse(path, f"a {kind}", kind not in TRAINERS)
    _refuse(path, f"one that reads {place}", bool(ELSEWHERE.search(place)))
    architecture, subtracts = TRAINERS[kind]
    matrices = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
    weights = {ours: tensors[ours] if ours in tensors else tensors[theirs].T for ours, theirs in matrices.items()}
    biases = {"b_enc": ("b_enc", "encoder.bias"), "b_dec": ("b_dec", "bias", "decoder_bias", "decoder.bias"),
              "b_gate": ("gate_bias",), "b_mag": ("mag_bias",), "r_mag": ("r_mag",)}  # fmt: skip
    weights |= {ours: tensors[name] for ours, names in biases.items() for name in names if name in tensors}
    if architecture == "jumprelu":
        weights["threshold"] = tensors["threshold"].expand(weights["W_enc"].shape[1])
    if kind == "AutoEncoder":
        norms = weights["W_dec"].norm(dim=1)
        weights |= {"W_dec": weights["W_dec"] / norms[:, None], "W_enc": weights["W_enc"] * norms, "b_enc": weights["b_enc"] * norms}
    k = None if architecture != "topk" else int(tensors["k"]) if "k" in tensors else trainer["k"]
    return Converted(weights, architecture, trainer.get("layer"), subtracts, str(trainer.get("lm_name", "")), k)


def _qwen_scope(tensors: Tensors, config: Mapping[str, Any], path: Path) -> Converted:
    """The k largest of x W_enc + b_enc, which are positive among so many; k is in the repository's name alone: SAE-Res-MODEL-W32K-L0_50."""
    names = re.findall(r"SAE-Res-(.+?)-W\d+K-L0_(\d+)", str(path)) or [("", n) for n in re.findall(r"L0_(\d+)", str(path))]
    if not names:
        raise DictionaryError(f"{path} does not say how many latents are active. Put it into a folder called as its repository: …-L0_50.")
    weights = {"W_enc": tensors["W_enc"].T, "W_dec": tensors["W_dec"].T, "b_enc": tensors["b_enc"], "b_dec": tensors["b_dec"]}
    model, k = names[-1]
    return Converted(weights, "topk", _number(r"layer(\d+)\.sae", path.name), False, model, int(k))


FORMATS = (
    Format("Gemma Scope 2", "params.safetensors", _gemma_scope, "config.json"),
    Format("Gemma Scope", "params.npz", _gemma_scope),
    Format("sparsify", "sae.safetensors", _sparsify, "cfg.json"),
    Format("dictionary_learning", "ae.pt", _dictionary_learning, "config.json"),
    Format("Qwen-Scope", "layer*.sae.pt", _qwen_scope),
)


def _refuse(path: Path, what: str, is_so: bool) -> None:
    if is_so:
        raise DictionaryError(f"{path} is {what}, which is not supported. Give an SAE of the residual stream after a block.")


def _number(pattern: str, text: str) -> int | None:
    match = re.search(pattern, text)
    return int(match[1]) if match else None
