"""Train dictionaries on the user's models and text: open what is to be read, train, and say how good the result is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from interp.core.config import validated
from interp.core.errors import ConfigError
from interp.core.files import write_json
from interp.core.progress import progress
from interp.dictionaries.load import load_dictionary
from interp.dictionaries.loss_recovered import spliced_loss
from interp.models.activation_store import ActivationStore, StoreWriter
from interp.models.adapter_pair import open_pair
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.models.sources import choose_device, open_model
from interp.studies.training_config import CaptureConfig, ReadingConfig, TrainingConfig
from sae_training.config import TrainConfig
from sae_training.corpus.documents import read_documents
from sae_training.distributed import World
from sae_training.estimate import Estimate, estimate
from sae_training.feed import Source
from sae_training.live import LiveSource
from sae_training.metrics import Tracker
from sae_training.plan import steps_of
from sae_training.results import Trained
from sae_training.trainer import train_all


@dataclass(frozen=True)
class Reading:
    """What residuals come from."""

    source: Source
    models: list[LanguageModel]
    """Empty when a store is read."""
    names: list[str]
    held_out: list[Chat]


def open_reading(config: ReadingConfig, store: Path | None = None, held_out: int = 0) -> Reading:
    """Open the models and the text, or the store."""
    if store is not None:
        stored = ActivationStore(store)
        names = list(stored.index.made.get("models") or ["unnamed"] * stored.index.n_models)
        return Reading(stored, [], names, [])
    documents = read_documents(config.text)
    base = str(config.base)
    if config.tuned is None:
        models = [open_model(base, None, config.device, config.dtype, config.trust_remote_code, config.thinking)]
    else:
        models = list(open_pair(base, config.tuned, config.device, config.dtype, config.trust_remote_code, config.thinking))
    points = config.hook_points or [f"blocks.{models[0].n_layers // 2}.hook_resid_post"]
    chats = [document for document in documents if isinstance(document, Chat)]
    kept = chats[:: max(1, len(chats) // held_out)][:held_out] if held_out and len(chats) >= 4 * held_out else []
    prompts = {chat.prompt for chat in kept}  # another answer to the same question begins with the same tokens
    training: Sequence[Chat] | Sequence[str] = [chat for chat in chats if chat.prompt not in prompts] if kept else documents
    live = LiveSource(
        models, training, points, config.block, config.context, config.skip_first, config.tokens_of_chats, config.store_dtype, config.seed
    )
    return Reading(live, models, [base, *([config.tuned] if config.tuned else [])], kept)


def capture_store(config: CaptureConfig, folder: Path, quiet: bool = False) -> ActivationStore:
    """Read all text once and keep the residuals, shuffled."""
    reading = open_reading(config)
    source = reading.source
    made = {"models": reading.names, "config": config.model_dump(mode="json"), "feed": source.fingerprint}
    with (
        StoreWriter(
            folder, source.hook_points, source.d_in, source.n_models, config.store_dtype, config.shard_rows, config.seed, made
        ) as writer,
        progress("capturing", source.n_blocks, quiet) as advance,
    ):
        for index in range(source.n_blocks):
            block = source.block(index)
            if len(next(iter(block.values()))):
                writer.add(block)
            advance(1)
    return ActivationStore(folder)


def dictionaries_of(config: TrainingConfig, source: Source) -> dict[str, TrainConfig]:
    """One config for every combination of hook point, width and k, by a name that tells them apart."""
    wished = config.dictionary
    architecture = wished.architecture.model_dump()
    if config.ks and "k" not in architecture:
        raise ConfigError(f"ks needs a kind of dictionary that fixes k; {architecture['kind']} does not. Leave ks out.")
    points = [wished.hook_point] if wished.hook_point else config.hook_points or list(source.hook_points)
    widths = config.latents or [architecture["n_latents"]]
    ks: list[int | None] = [*config.ks] or [architecture.get("k")]
    result = {}
    for point, width, k in product(points, widths, ks):
        values = architecture | {"n_latents": width} | ({"k": k} if k is not None else {})
        choices = ((point, points), (f"{width}", widths), (f"k{k}", ks))
        name = "-".join(value for value, among in choices if len(among) > 1)
        result[name] = validated(TrainConfig, wished.model_dump() | {"architecture": values, "hook_point": point}, "options")
    return result


def train_dictionaries(config: TrainingConfig, folder: Path, quiet: bool = False) -> dict[str, Trained]:
    """Train them all in one pass, and where the models are at hand write `quality.json` beside each."""
    device = choose_device(config.device)
    world = World.join(device)  # before the models are opened: it chooses this process's GPU
    trackers = [Tracker(*config.track.split(":", 1))] if config.track and world.leads else []
    reading = open_reading(config, config.store, config.spliced_chats)
    configs = dictionaries_of(config, reading.source)
    options: dict[str, Any] = {"seed": config.seed, "models": reading.names, "device": device, "callbacks": trackers}
    with progress("training", steps_of(next(iter(configs.values())), reading.source), quiet) as advance:
        trained = train_all(configs, reading.source, folder, advance=advance, **options)
    if reading.held_out and world.leads:
        for result in trained.values():
            if not (result.folder / "quality.json").is_file():  # else of this very training, which was finished before
                write_json(result.folder / "quality.json", _quality(config, reading, result))
    return trained


def _quality(config: TrainingConfig, reading: Reading, trained: Trained) -> dict[str, Any]:
    """Loss of each model on held-out chats, as it is, with the reconstruction, and with the mean."""
    dictionary = load_dictionary(trained.dictionary, reading.models[0].device)
    losses = {
        name: spliced_loss(reading.models, dictionary, reading.held_out, i, max_tokens=config.context)
        for i, name in enumerate(reading.names)
    }
    return {name: {**asdict(loss), "recovered": loss.recovered} for name, loss in losses.items()}


def estimate_training(config: TrainingConfig) -> Estimate:
    """What `train_dictionaries` would cost."""
    reading = open_reading(config, config.store, config.spliced_chats)
    return estimate(dictionaries_of(config, reading.source), reading.source, config.seed, choose_device(config.device))
