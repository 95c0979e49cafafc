"""SAEs of other libraries: latents and reconstructions are those of each library's own arithmetic, written out here."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interp.core.errors import DictionaryError
from interp.dictionaries.files import FILES, dictionary_key
from interp.dictionaries.hub import upload
from interp.dictionaries.load import load_dictionary
from interp.dictionaries.pretrained import resolve_dictionary
from tests.helpers.small_hub import Repository, small_hub

D, M, K = 6, 20, 4
Tensors = dict[str, torch.Tensor]
Arithmetic = Callable[[torch.Tensor, Tensors], tuple[torch.Tensor, torch.Tensor]]
"""Latents and reconstruction of rows, from the file's tensors."""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONASCOPE_CACHE", str(tmp_path / "cache"))


def drawn(**shapes: tuple[int, ...]) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {name.replace("__", "."): torch.randn(shape, generator=generator) for name, shape in shapes.items()}


ROWS = torch.randn(50, D, generator=torch.Generator().manual_seed(1))


def largest(values: torch.Tensor, k: int = K) -> torch.Tensor:
    top = values.topk(k, dim=-1)
    return torch.zeros_like(values).scatter_(-1, top.indices, top.values)


def gemma_scope(x: torch.Tensor, w: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    w = {name.lower(): tensor for name, tensor in w.items()}
    pre = x @ w["w_enc"] + w["b_enc"]
    acts = (pre > w["threshold"]) * torch.relu(pre)
    return acts, acts @ w["w_dec"] + w["b_dec"]


def sparsify(x: torch.Tensor, w: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    acts = largest(torch.relu(torch.nn.functional.linear(x - w["b_dec"], w["encoder.weight"], w["encoder.bias"])))
    return acts, acts @ w["W_dec"] + w["b_dec"]


def auto_encoder(x: torch.Tensor, w: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """As its library loads it: decoder columns at norm one."""
    norms = w["decoder.weight"].norm(dim=0)
    acts = torch.relu((x - w["bias"]) @ (w["encoder.weight"] * norms[:, None]).T + w["encoder.bias"] * norms)
    return acts, acts @ (w["decoder.weight"] / norms).T + w["bias"]


def auto_encoder_new(x: torch.Tensor, w: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    acts = torch.relu(x @ w["encoder.weight"].T + w["encoder.bias"])
    return acts, acts @ w["decoder.weight"].T + w["decoder.bias"]


def top_k(x: torch.Tensor, w: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    acts = largest(torch.relu((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]), int(w["k"]))
    return acts, acts @ w["decoder.weight"].T + w["b_dec"]


def batch_top_k(x: torch.Tensor, w: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """With its threshold, as everywhere but in training."""
    acts = torch.relu((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    acts = acts * (acts > w["threshold"])
    return acts, acts @ w["decoder.weight"].T + w["b_dec"]


def matryoshka(x: torch.Tensor, w: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    acts = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    acts = acts * (acts > w["threshold"])
    return acts, acts @ w["W_dec"] + w["b_dec"]


def gated(x: torch.Tensor, w: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    pre = (x - w["decoder_bias"]) @ w["encoder.weight"].T
    acts = (pre + w["gate_bias"] > 0) * torch.relu(w["r_mag"].exp() * pre + w["mag_bias"])
    return acts, acts @ w["decoder.weight"].T + w["decoder_bias"]


def qwen_scope(x: torch.Tensor, w: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    acts = largest(x @ w["W_enc"].T + w["b_enc"])
    return acts, acts @ w["W_dec"].T + w["b_dec"]


LINEAR = {"encoder__weight": (M, D), "decoder__weight": (D, M)}
GEMMA = {"w_enc": (D, M), "w_dec": (M, D), "b_enc": (M,), "b_dec": (D,), "threshold": (M,)}
EAI = drawn(encoder__weight=(M, D), encoder__bias=(M,), W_dec=(M, D), b_dec=(D,))
QWEN = drawn(W_enc=(M, D), W_dec=(D, M), b_dec=(D,)) | {"b_enc": torch.full((M,), 3.0)}  # some k are positive
THRESHOLD = {"threshold": torch.tensor(0.5)}
KNOWN_K = {"k": torch.tensor(K, dtype=torch.int)}


def trainer(kind: str, **settings: Any) -> dict[str, Any]:
    return {"trainer": {"dict_class": kind, "layer": 3, "lm_name": "some/model", **settings}, "buffer": {"ctx_len": 128}}


SCOPE = {"architecture": "jump_relu", "model_name": "some/model", "hf_hook_point_in": "model.layers.3.output", "width": M, "l0": 9}
EAI_CONFIG = {"d_in": D, "k": K, "expansion_factor": 32, "num_latents": 0, "normalize_decoder": True, "signed": False}
BATCH = drawn(**LINEAR, encoder__bias=(M,), b_dec=(D,)) | THRESHOLD | KNOWN_K
CASES: dict[str, tuple[str, Tensors, str, dict[str, Any] | None, Arithmetic]] = {
    "gemma scope 2": ("resid_post/x/params.safetensors", drawn(**GEMMA), "config.json", SCOPE, gemma_scope),
    "gemma scope 2 without a config": ("resid_post/layer_3_width_16k/params.safetensors", drawn(**GEMMA), "", None, gemma_scope),
    "gemma scope": (
        "layer_3/width_16k/average_l0_7/params.npz",
        {name.replace("w_", "W_"): tensor for name, tensor in drawn(**GEMMA).items()},
        "",
        None,
        gemma_scope,
    ),
    "sparsify": ("layers.3/sae.safetensors", EAI, "cfg.json", EAI_CONFIG, sparsify),
    "sparsify of gpt2": ("h.3/sae.safetensors", EAI, "cfg.json", EAI_CONFIG | {"activation": "topk", "transcode": False}, sparsify),
    "sparsify in half precision": ("layers.3/sae.safetensors", {n: t.bfloat16() for n, t in EAI.items()}, "cfg.json", EAI_CONFIG, sparsify),
    "AutoEncoder": ("a/ae.pt", drawn(**LINEAR, encoder__bias=(M,), bias=(D,)), "config.json", trainer("AutoEncoder"), auto_encoder),
    "AutoEncoderNew": (
        "a/ae.pt",
        drawn(**LINEAR, encoder__bias=(M,), decoder__bias=(D,)),
        "config.json",
        trainer("AutoEncoderNew"),
        auto_encoder_new,
    ),
    "AutoEncoderTopK": ("a/ae.pt", BATCH, "config.json", trainer("AutoEncoderTopK", k=K), top_k),
    "BatchTopKSAE": ("a/ae.pt", BATCH, "config.json", trainer("BatchTopKSAE", submodule_name="resid_post_layer_3"), batch_top_k),
    "BatchTopKSAE without a threshold": (
        "a/ae.pt",
        BATCH | {"threshold": torch.tensor(-1.0)},
        "config.json",
        trainer("BatchTopKSAE"),
        batch_top_k,
    ),
    "MatryoshkaBatchTopKSAE": (
        "a/ae.pt",
        drawn(W_enc=(D, M), W_dec=(M, D), b_enc=(M,), b_dec=(D,)) | THRESHOLD | KNOWN_K | {"group_sizes": torch.tensor([5, 15])},
        "config.json",
        trainer("MatryoshkaBatchTopKSAE"),
        matryoshka,
    ),
    "JumpReluAutoEncoder": (
        "a/ae.pt",
        drawn(W_enc=(D, M), W_dec=(M, D), b_enc=(M,), b_dec=(D,), threshold=(M,)),
        "config.json",
        trainer("JumpReluAutoEncoder"),
        lambda x, w: gemma_scope(x, w),
    ),
    "GatedAutoEncoder": (
        "a/ae.pt",
        drawn(**LINEAR, decoder_bias=(D,), r_mag=(M,), gate_bias=(M,), mag_bias=(M,)),
        "config.json",
        trainer("GatedAutoEncoder"),
        gated,
    ),
    "qwen scope": (f"SAE-Res-Some-1.7B-W32K-L0_{K}/layer3.sae.pt", QWEN, "", None, qwen_scope),
}


def saved(folder: Path, name: str, tensors: Tensors, config_name: str = "", config: dict[str, Any] | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in tensors.items()})
    elif path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    if config is not None:
        (path.parent / config_name).write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", CASES)
def test_latents_and_reconstructions_are_the_librarys(tmp_path: Path, name: str) -> None:
    file, tensors, config_name, config, arithmetic = CASES[name]
    path = saved(tmp_path, file, tensors, config_name, config)
    for place in (path.parent, path):  # a folder, or the file itself
        dictionary = load_dictionary(resolve_dictionary(f"pickle:{place}" if path.suffix == ".pt" else place))
        assert dictionary.hook_point == "blocks.3.hook_resid_post"
        latents, reconstruction = arithmetic(ROWS, {key: tensor.float() for key, tensor in tensors.items()})
        codes = dictionary.encode(ROWS)
        torch.testing.assert_close(codes.dense(), latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(dictionary.decode(codes), reconstruction, atol=1e-4, rtol=1e-5)
        assert 0 < int((latents > 0).sum()) < latents.numel()


@pytest.mark.parametrize("name", ["qwen scope", "BatchTopKSAE"])
def test_a_pickle_is_opened_only_where_the_user_says_so_and_then_once(tmp_path: Path, name: str) -> None:
    file, tensors, config_name, config, _ = CASES[name]
    path = saved(tmp_path, file, tensors, config_name, config)
    with pytest.raises(DictionaryError, match=rf"is a pickle, and opening one can run code\. Write pickle:{path}"):
        load_dictionary(path.parent)
    folder = resolve_dictionary(f"pickle:{path}")
    assert {file.name for file in folder.iterdir()} == set(FILES)
    before = (folder / FILES[1]).stat().st_mtime_ns
    assert resolve_dictionary(f"pickle:{path.parent}") == folder
    assert (folder / FILES[1]).stat().st_mtime_ns == before
    assert resolve_dictionary(f"pickle:{folder}") == folder  # nothing in it is pickled


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [{"W_enc": Harm()}, b"no pickle", torch.zeros(3)])
def test_a_pickle_of_anything_but_tensors_is_not_run(tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "L0_4" / "layer0.sae.pt"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(DictionaryError, match=r"layer0\.sae\.pt cannot be read: .*Download it again"):
        resolve_dictionary(f"pickle:{path}")
    assert capsys.readouterr().out == ""


REFUSED = [
    ("gemma scope 2", {"hf_hook_point_in": "model.layers.3.self_attn.o_proj.input"}, None, "one that reads model.layers.3.self_attn"),
    ("gemma scope 2", {"hf_hook_point_out": "model.layers.3.post_feedforward_layernorm.output"}, None, "a transcoder"),
    ("gemma scope 2", {"architecture": "topk"}, None, "of the architecture topk"),
    ("gemma scope 2 without a config", None, "mlp_out/layer_3_width_16k/params.safetensors", "one of a component"),
    ("gemma scope", None, "gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_7/params.npz", "one of a component"),
    ("gemma scope", None, "x--gemma-scope-2b-pt-mlp/snapshots/0a/layer_3/width_16k/average_l0_7/params.npz", "one of a component"),
    ("BatchTopKSAE", trainer("BatchTopKSAE"), "saes/mlp_out_layer_3/trainer_1/ae.pt", "one that reads .*mlp_out_layer_3"),
    ("sparsify", {"transcode": True}, None, "one with transcode"),
    ("sparsify", {"signed": True}, None, "one with signed"),
    ("sparsify", {"activation": "groupmax"}, None, "one with the activation groupmax"),
    ("sparsify", None, "layers.3.mlp/sae.safetensors", r"one that reads layers\.3\.mlp"),
    ("sparsify", None, "embed_tokens/sae.safetensors", "one that reads embed_tokens"),
    ("BatchTopKSAE", trainer("CrossCoder"), None, "a CrossCoder"),
    ("BatchTopKSAE", trainer("BatchTopKSAE", submodule_name="mlp_out_layer_3"), None, "one that reads mlp_out_layer_3"),
    ("BatchTopKSAE", {"trainer": {"layer": 3}}, None, "lacks 'dict_class'"),
    ("qwen scope", None, "somewhere/layer3.sae.pt", "does not say how many latents are active"),
]


@pytest.mark.parametrize(("name", "change", "place", "message"), REFUSED)
def test_what_is_no_sae_of_the_residual_stream_is_refused(
    tmp_path: Path, name: str, change: dict[str, Any] | None, place: str | None, message: str
) -> None:
    file, tensors, config_name, config, _ = CASES[name]
    path = saved(tmp_path, place or file, tensors, config_name, None if config is None else config | (change or {}))
    with pytest.raises(DictionaryError, match=message):
        load_dictionary(resolve_dictionary(f"pickle:{path}"))


def test_tensors_that_lack_or_do_not_fit_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, "layers.3/sae.safetensors", {"encoder.weight": torch.zeros(M, D)}, "cfg.json", EAI_CONFIG)
    with pytest.raises(DictionaryError, match=r"is no SAE of sparsify: it lacks 'encoder\.bias'"):
        load_dictionary(path.parent)
    saved(tmp_path, "layers.3/sae.safetensors", EAI | {"b_dec": torch.zeros(D + 1)}, "cfg.json", EAI_CONFIG)
    with pytest.raises(DictionaryError, match="do not belong together"):
        load_dictionary(path.parent)
    with pytest.raises(DictionaryError, match=r"no SAE in sae-lens' format .* nor of Gemma Scope 2, .*Qwen-Scope"):
        load_dictionary(tmp_path)


def test_several_layers_in_a_folder_are_named_one_by_one(tmp_path: Path) -> None:
    for layer in (3, 12):
        saved(tmp_path, f"L0_{K}/layer{layer}.sae.pt", QWEN)
    with pytest.raises(DictionaryError, match=r"holds 2 SAEs of Qwen-Scope\. Name one: .*layer12\.sae\.pt"):
        resolve_dictionary(f"pickle:{tmp_path / f'L0_{K}'}")
    assert (
        load_dictionary(resolve_dictionary(f"pickle:{tmp_path / f'L0_{K}' / 'layer12.sae.pt'}")).hook_point == "blocks.12.hook_resid_post"
    )


def test_the_key_follows_weights_and_config_and_a_foreign_folder_is_not_uploaded(tmp_path: Path) -> None:
    paths = [saved(tmp_path / str(k), "layers.3/sae.safetensors", EAI, "cfg.json", EAI_CONFIG | {"k": k}) for k in (3, 4)]
    keys = [dictionary_key(path.parent) for path in paths]
    assert keys[0] != keys[1] == dictionary_key(paths[1])
    with pytest.raises(DictionaryError, match="another library's format"):
        upload(paths[0].parent, "owner/name")


@pytest.mark.parametrize(
    ("name", "repository", "folder"),
    [
        ("qwen scope", f"Qwen/SAE-Res-Some-1.7B-W32K-L0_{K}", "layer3.sae.pt"),
        ("gemma scope 2", "google/gemma-scope-2-270m-pt", "resid_post/layer_3_width_16k_l0_small"),
        ("gemma scope", "google/gemma-scope-2b-pt-res", "layer_3/width_16k/average_l0_7"),
        ("BatchTopKSAE", "somebody/saes", "latte/resid_post_layer_3/trainer_1"),  # att is no word here
    ],
)
def test_a_repository_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, repository: str, folder: str) -> None:
    file, tensors, config_name, config, arithmetic = CASES[name]
    path = saved(tmp_path / "made", file, tensors, config_name, config)
    files = {path.name: path.read_bytes()} | ({config_name: (path.parent / config_name).read_bytes()} if config else {})
    place = "" if folder.endswith(".pt") else f"{folder}/"
    with small_hub(tmp_path / "hub cache", monkeypatch) as hub:
        hub.repositories[repository] = Repository(False, commits=[{place + name: data for name, data in files.items()}])
        spec = f"hub:{repository}/{folder}"
        dictionary = load_dictionary(resolve_dictionary(f"pickle:{spec}" if path.suffix == ".pt" else spec))
    assert dictionary.hook_point == "blocks.3.hook_resid_post"
    torch.testing.assert_close(dictionary.encode(ROWS).dense(), arithmetic(ROWS, tensors)[0], atol=1e-5, rtol=1e-5)
