"""A pre-training run from sounds to encoder, in a folder that explains itself.

OUT/recipe.yaml      the resolved settings
OUT/environment.json versions of what it ran on
OUT/sounds.json      what it learns from, counted, and a digest of the list
OUT/unreadable.csv   sounds that were passed over, where there are any
OUT/history.csv      losses and spread of the embeddings, a row per `report_every` steps
OUT/logs/            the same for TensorBoard, where it is installed
OUT/resume/last.ckpt the run's state, saved between two steps; `--resume` goes on from there
OUT/encoder/         the result
"""

import csv
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from atgnn.checkpoint import Provenance
from atgnn.encoder import Encoder
from atgnn.errors import ConfigError, counted
from atgnn.files import write_rows, write_text
from atgnn.training.cluster import Cluster, accelerator
from atgnn.training.environment import describe_environment
from atgnn.training.folder import append_row, check_folder, note_start
from atgnn.training.norms import measure_norms
from atgnn.training.pretrain.module import PretrainModule
from atgnn.training.pretrain.settings import PretrainSettings
from atgnn.training.pretrain.sounds import Sounds, find_recordings
from atgnn.training.pretrain.views import PairLoader
from atgnn.training.resume import ResumePoint, resume_file
from atgnn.training.run import fit, full_disk_in_one_line
from atgnn.training.trainer import check_precision, make_trainer

__all__ = ["pretrain"]

COLLAPSED = 0.05  # spread of the embeddings below which an encoder says the same of every sound
NORM_BATCHES = 20


def pretrain(
    settings: PretrainSettings,
    out: Path,
    *,
    resume: bool = False,
    say: Callable[[str], None] = warnings.warn,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Learn an encoder from unlabelled sounds; returns its folder, ``out/encoder``.

    Interrupted by Ctrl-C, a crash or kill -9, the same call with `resume` goes on from the last
    state that was saved and ends with the same weights as an uninterrupted run. `say` is told, in
    one line each, what was passed over and whether the embeddings collapse; `progress` the numbers
    of files looked at, before the run begins, and in all.

    Raises:
        ConfigError: `out` is in use, or `resume` with other settings or other sounds.
        ClipsError: nothing there can be read.
    """
    check_precision(settings.as_recipe())
    settings = settings.with_absolute_paths()
    check_folder(settings, out, resume)
    unreadable: dict[Path, str] = {}
    rate = settings.front_end_config().sample_rate
    found = find_recordings(settings.sounds.paths, rate, unreadable.__setitem__, progress)
    sounds = Sounds(found, rate, settings.sounds)
    _check_sounds(out, sounds, resume)
    with full_disk_in_one_line(out):
        _claim(settings, out, sounds)  # only now: whatever does not fit has been found
        _pass_over(out, unreadable, say)
        return _learn(settings, out, sounds, resume, say)


def _learn(
    settings: PretrainSettings,
    out: Path,
    sounds: Sounds,
    resume: bool,
    say: Callable[[str], None],
) -> Path:
    torch.manual_seed(settings.seed)
    module = PretrainModule(settings)
    loader = PairLoader(sounds, settings, settings.optim.steps_each)
    keeper = _Keeper(out, say)
    point = ResumePoint(resume_file(out), settings.checkpoint_minutes, 0)
    trainer = make_trainer(settings.as_recipe(), out, Cluster(), [keeper, point], "Row")
    fit(trainer, module, (loader,), resume_file(out) if resume else None)
    _pass_over(out, sounds.failures, say)
    return _finish(settings, out, module, loader, keeper)


def _claim(settings: PretrainSettings, out: Path, sounds: Sounds) -> None:
    """Write down what the run is, each time it starts."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "recipe.yaml", settings.to_yaml())
    write_text(out / "sounds.json", json.dumps(_inventory(sounds), indent=1) + "\n")
    device = accelerator(settings.as_recipe().scale)
    note_start(out / "environment.json", describe_environment(Cluster(), device))


class _Keeper(Callback):
    """Writes the history, and says so when the embeddings collapse."""

    def __init__(self, out: Path, say: Callable[[str], None]) -> None:
        self.out, self.say = out, say
        self.latest: dict[str, float] = {}
        self._said = False

    def state_dict(self) -> dict[str, Any]:
        return {"latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.latest = state_dict["latest"]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """A row of losses and spread."""
        means = pl_module.means.means()
        self.latest = {name: round(value, 6) for name, value in means.items()}
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        append_row(self.out / "history.csv", {**row, **self.latest})
        if self.collapsed and not self._said:
            self._said = True
            self.say(
                f"the embeddings collapse: after step {trainer.global_step} their spread is "
                f"{self.latest['spread']:.3f} (1: all directions, 0: one). Sounds may be silent or "
                "all alike; else lower optim.learning_rate"
            )

    @property
    def collapsed(self) -> bool:
        """Whether the encoder says the same of every sound."""
        return self.latest.get("spread", 1.0) < COLLAPSED


def _finish(
    settings: PretrainSettings, out: Path, module: PretrainModule, loader: PairLoader, keeper: Any
) -> Path:
    """Measure the norms on plain sound, which a tagger hears, and write the encoder."""
    module = module.to("cpu")

    def plain() -> Iterator[tuple[Tensor]]:
        loader.set_epoch(-1 % 2**32)  # draws of no epoch
        for number in range(min(NORM_BATCHES, len(loader))):
            yield (module.front_end(loader.batch(number).wave())[0],)

    measure_norms(module.encoder, plain())
    data = _inventory(loader.sounds)
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in keeper.latest.items())
    warning = ("**Its embeddings collapsed: it says the same of every sound.**",)
    about = Provenance(
        summary=f"Learned from sound without labels, by the method `{settings.method}`.",
        training_data=f"{counted(data['recordings'], 'recording')}, {data['hours']:.2f} hours, of "
        f"{', '.join(Path(path).name for path in settings.sounds.paths)}.",
        command="atgnn pretrain --recipe recipe.yaml --out RUN   # the run's recipe.yaml",
        notes=(f"At the end: {numbers}.", *(warning if keeper.collapsed else ())),
    )
    encoder = Encoder(
        module.encoder, settings.model_config_of(), settings.front_end_config(), about
    )
    return encoder.save_pretrained(out / "encoder")


# ---------------------------------------------------------------------- what it learns from


def _inventory(sounds: Sounds) -> dict[str, Any]:
    """Number, hours and a digest of the recordings: draws depend on each and on their order."""
    digest = hashlib.sha256()
    for clip, seconds, packed in sounds.recordings:
        digest.update(f"{clip.path}\t{clip.start}\t{seconds}\t{packed is None}\n".encode())
    return {
        "recordings": len(sounds.recordings),
        "hours": round(sounds.hours, 4),
        "digest": digest.hexdigest(),
    }


def _check_sounds(out: Path, sounds: Sounds, resume: bool) -> None:
    saved = out / "sounds.json"
    if not resume or not saved.is_file():
        return
    before, now = json.loads(saved.read_text(encoding="utf-8")), _inventory(sounds)
    if before["digest"] != now["digest"]:
        raise ConfigError(
            f"the sounds are not those that {out} began with "
            f"({counted(before['recordings'], 'recording')}, "
            f"{before['hours']:.2f} h, now {now['recordings']}, {now['hours']:.2f} h): put them "
            "back, or begin anew with another --out"
        )


def _pass_over(out: Path, failures: dict[Path, str], say: Callable[[str], None]) -> None:
    """Add what could not be read to the list of it, and say so."""
    if not failures:
        return
    file = out / "unreadable.csv"
    rows: dict[str, str] = {}
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as before:
            rows = {row[0]: row[1] for row in [*csv.reader(before)][1:]}
    rows |= {str(path): reason for path, reason in failures.items()}
    write_rows(file, [("path", "reason"), *rows.items()])
    say(
        f"{counted(len(failures), 'sound')} cannot be read, passed over; the first: "
        f"{next(iter(failures.values()))}; all are in {file}"
    )
