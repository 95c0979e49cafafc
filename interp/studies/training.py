"""Train dictionaries on the user's models and text: open what is to be read, train, and say how good the result is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from interp.core.config import StepConfig, validated
from interp.core.errors import ConfigError
from interp.core.files import write_json
from interp.dictionaries.crosscoders import load_crosscoder
from interp.dictionaries.loss_recovered import spliced_loss
from interp.dictionaries.sae import load_dictionary
from interp.models.activation_store import ActivationStore, StoreWriter
from interp.models.adapter_pair import open_pair
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.models.sources import choose_device, open_model
from sae_training.config import TrainConfig
from sae_training.corpus.documents import read_documents
from sae_training.distributed import World
from sae_training.estimate import Estimate, estimate
from sae_training.feed import ShardSource, Source
from sae_training.live import LiveSource
from sae_training.metrics import Tracker
from sae_training.plan import steps_of
from sae_training.results import Trained
from sae_training.trainer import train_all

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


class ReadingConfig(StepConfig):
    """What is read with which models."""

    base: str | None = None
    """Base model: hub id, folder, GGUF file or embedded:smollm2."""
    tuned: str | None = None
    """Fine-tuned model: hub id, folder, or LoRA adapter over the base, which then shares the base's weights."""
    text: list[str] = Field(default=["corpus"], min_length=1)
    """Files to read (.jsonl, .parquet, .txt), or `corpus`, the committed one."""
    hook_points: list[str] = Field(default=[], max_length=64)
    """Where residuals are taken; default: after the middle block."""
    tokens_of_chats: Literal["content", "response", "all"] = "content"
    """Which tokens of a chat: from the first user token on, the response phase, or all. Of plain text all."""
    context: int = Field(default=128, ge=2)
    """Tokens of a sequence. Plain texts are packed into sequences of that length; a chat's response is cut to it."""
    skip_first: int = Field(default=0, ge=0)
    """Leave out each sequence's first tokens, whose residuals are like no others."""
    block: int = Field(default=256, ge=1)
    """Documents read and mixed together."""
    store_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the residuals, in memory and on disk."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of everything."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    dtype: str = "auto"
    """`auto` (bfloat16 on CUDA, float32 on the CPU), `float32`, `bfloat16`, `float16`."""
    trust_remote_code: bool = False
    """Run code that a model repository brings along."""


class CaptureConfig(ReadingConfig):
    """Residuals of one or two models, kept on disk."""

    base: str
    """Base model: hub id, folder, GGUF file or embedded:smollm2."""
    shard_rows: int = Field(default=65_536, ge=1)
    """Tokens in a file; that many are shuffled with each other."""


READ_ONLY_LIVE = ("tuned", "text", "tokens_of_chats", "context", "skip_first", "block", "store_dtype", "dtype",
                  "trust_remote_code", "held_out")  # fmt: skip


class TrainingConfig(ReadingConfig):
    """Dictionaries on a store, or live on the models' residuals."""

    store: Path | None = None
    """Folder that `personascope capture` wrote; instead of models and text."""
    dictionary: TrainConfig = TrainConfig()
    """The dictionary and its training."""
    latents: list[int] = Field(default=[], max_length=64)
    """Several widths, all trained in one pass, in place of the one in `dictionary`."""
    ks: list[int] = Field(default=[], max_length=64)
    """Several k, likewise."""
    track: str | None = Field(default=None, pattern=r"^(wandb|trackio):.+$")
    """Send metrics to a tracker as well: `wandb:PROJECT` or `trackio:PROJECT`."""
    held_out: int = Field(default=32, ge=0)
    """Documents not trained on, for the loss with the reconstruction spliced in; only with models at hand, and chats."""

    @model_validator(mode="after")
    def _one_source(self) -> TrainingConfig:
        if (self.store is None) == (self.base is None):
            raise ValueError("give either store, or base (with tuned and text)")
        if self.base is not None and self.dictionary.tokens is None:
            raise ValueError("give tokens, the number of tokens to train on: what is read live has no known length")
        for name in READ_ONLY_LIVE if self.store is not None else ():
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} has no effect with store, whose residuals are read already: leave it out")
        return self

    @property
    def spliced_chats(self) -> int:
        """Chats to hold out: none where no reconstruction of a model's residuals comes out."""
        return 0 if self.dictionary.reads == "difference" else self.held_out


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
        shards = ActivationStore(store)
        names = list(shards.made.get("models") or ["unnamed"] * shards.n_models)
        return Reading(ShardSource(shards), [], names, [])
    documents = read_documents(config.text)
    base = str(config.base)
    if config.tuned is None:
        models = [open_model(base, None, config.device, config.dtype, config.trust_remote_code)]
    else:
        models = list(open_pair(base, config.tuned, config.device, config.dtype, config.trust_remote_code))
    points = config.hook_points or [f"blocks.{models[0].n_layers // 2}.hook_resid_post"]
    chats = [document for document in documents if isinstance(document, Chat)]
    kept = chats[:: max(1, len(chats) // held_out)][:held_out] if held_out and len(chats) >= 4 * held_out else []
    prompts = {chat.prompt for chat in kept}  # another answer to the same question begins with the same tokens
    training: Sequence[Chat] | Sequence[str] = [chat for chat in chats if chat.prompt not in prompts] if kept else documents
    live = LiveSource(
        models, training, points, config.block, config.context, config.skip_first, config.tokens_of_chats, config.store_dtype, config.seed
    )
    return Reading(live, models, [base, *([config.tuned] if config.tuned else [])], kept)


def capture_store(config: CaptureConfig, folder: Path, progress: Progress) -> ActivationStore:
    """Read all text once and keep the residuals, shuffled."""
    reading = open_reading(config)
    source = reading.source
    made = {"models": reading.names, "config": config.model_dump(mode="json"), "feed": source.fingerprint}
    with (
        StoreWriter(
            folder, source.hook_points, source.d_in, source.n_models, config.store_dtype, config.shard_rows, config.seed, made
        ) as writer,
        progress("capturing", source.n_blocks) as advance,
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


def train_dictionaries(config: TrainingConfig, folder: Path, progress: Progress) -> dict[str, Trained]:
    """Train them all in one pass, and where the models are at hand write `quality.json` beside each."""
    device = choose_device(config.device)
    world = World.join(device)  # before the models are opened: it chooses this process's GPU
    trackers = [Tracker(*config.track.split(":", 1))] if config.track and world.leads else []
    reading = open_reading(config, config.store, config.spliced_chats)
    configs = dictionaries_of(config, reading.source)
    options: dict[str, Any] = {"seed": config.seed, "models": reading.names, "device": device, "callbacks": trackers}
    with progress("training", steps_of(next(iter(configs.values())), reading.source)) as advance:
        trained = train_all(configs, reading.source, folder, advance=advance, **options)
    if reading.held_out and world.leads:
        for result in trained.values():
            if not (result.folder / "quality.json").is_file():  # else of this very training, which was finished before
                write_json(result.folder / "quality.json", _quality(config, reading, result))
    return trained


def _quality(config: TrainingConfig, reading: Reading, trained: Trained) -> dict[str, Any]:
    """Loss of each model on held-out chats, as it is, with the reconstruction, and with the mean."""
    folder, device = trained.dictionary, reading.models[0].device
    crosscoder = config.dictionary.reads == "pair"
    dictionary = load_crosscoder(folder, device) if crosscoder else load_dictionary(folder, device)
    losses = {
        name: spliced_loss(reading.models, dictionary, reading.held_out, i, max_tokens=config.context)
        for i, name in enumerate(reading.names)
    }
    return {name: {**asdict(loss), "recovered": loss.recovered} for name, loss in losses.items()}


def estimate_training(config: TrainingConfig) -> Estimate:
    """What `train_dictionaries` would cost."""
    reading = open_reading(config, config.store, config.spliced_chats)
    return estimate(dictionaries_of(config, reading.source), reading.source, config.seed, choose_device(config.device))
