"""A trained tagger as one self-describing folder.

``config.json`` says everything but the weights: layout, front end and its statistics, labels,
thresholds, what it was trained on and how well it does. ``model.safetensors`` holds the weights.
``README.md`` is the model card. Nothing in it is pickled.
"""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from atgnn import __version__
from atgnn.errors import CheckpointError, describe_error, did_you_mean
from atgnn.files import replacing_folder
from atgnn.frontend import FrontEnd, FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.model import ATGNN
from atgnn.model.beside import LabelsBeside
from atgnn.model.digest import weights_digest
from atgnn.model.label import LabelBranch
from atgnn.networks import (
    Network,
    NetworkConfig,
    base_labels,
    check_front_end,
    empty_network,
    kind_of,
    network_names,
)
from atgnn.shipped import SHIPPED, shipped_models
from atgnn.trained_on import Heard

__all__ = [
    "DEFAULT_MODEL",
    "ENCODER_FORMAT",
    "FORMAT_VERSION",
    "Checkpoint",
    "Provenance",
    "card_sections",
    "read_weights",
]

FORMAT_VERSION = 1
DEFAULT_MODEL = "everyday-lite0"
ENCODER_FORMAT: Literal["atgnn encoder"] = "atgnn encoder"  # of `atgnn.encoder`, for its refusal
_FILES = ("config.json", "model.safetensors", "README.md")
ATTRIBUTION, HEARD = "ATTRIBUTION.csv", "heard.safetensors"  # may lie beside them
PREPROCESSOR = "preprocessor_config.json"  # for `transformers`; we do not read it
_OTHERS = (ATTRIBUTION, HEARD, PREPROCESSOR)
HF_TYPE: Literal["atgnn"] = "atgnn"  # what `transformers` knows us by, see `atgnn.hf`
HF_EXTRACTOR = "ATGNNFeatureExtractor"
HF_PREFIX = "hf:"  # before the name of a model of `transformers`, see `atgnn.others.huggingface`


class Provenance(BaseModel):
    """Where a model comes from and how well it does; all of it ends up in the card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: str = Field("", description="one paragraph: what it is for, what it cannot do")
    training_data: str = Field("", description="what it was trained on")
    lineage: tuple[str, ...] = Field(
        (), description="what its initial weights and its teachers had learned from, a line each"
    )
    licence: str = Field("", description="licence of the weights, and what must be attributed")
    licence_id: str = Field("", description="the hub's name of the licence, e.g. cc-by-4.0")
    metrics: dict[str, float] = Field(default_factory=dict)
    evaluated_on: str = Field("", description="what the metrics were measured on, and how")
    command: str = Field("", description="the command that reproduces it")
    notes: tuple[str, ...] = Field((), description="further paragraphs of the card")
    atgnn_version: str = __version__


class Calibration(BaseModel):
    """A straight line through a model's logits, after which its scores are honest probabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(1.0, gt=0)
    shift: float = Field(0.0, description="of no effect where exactly one label is true")

    def apply(self, scores: np.ndarray, exclusive: bool = False) -> np.ndarray:
        """The calibrated of uncalibrated scores (N, L); `exclusive` ones add up to 1 again."""
        inside = np.clip(scores, 1e-30 if exclusive else 1e-7, 1 if exclusive else 1 - 1e-7)
        logs = np.log(inside)
        if exclusive:
            scaled = self.scale * logs
            powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
        out: np.ndarray = 1 / (1 + np.exp(-self.scale * (logs - np.log1p(-inside)) - self.shift))
        return out


def card_sections(sections: dict[str, str], notes: Iterable[str]) -> list[str]:
    """Lines of a card: what there is to say under each title, then further paragraphs."""
    lines = []
    for title, text in sections.items():
        if text:
            lines += ["", f"## {title}", "", text]
    for note in notes:
        lines += ["", note]
    return lines


class _Description(BaseModel):
    """The content of config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    model_type: Literal["atgnn"] = HF_TYPE
    model: NetworkConfig
    front_end: FrontEndConfig
    labels: list[dict[str, Any]]
    thresholds: tuple[float, ...] | None = None
    calibration: Calibration | None = None
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    window_seconds: float = Field(10.0, gt=0)
    moments: bool = False
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _agrees(self) -> "_Description":
        if len(self.labels) != self.model.num_labels:
            raise ValueError(f"{len(self.labels)} labels for {self.model.num_labels} outputs")
        if self.thresholds is not None and len(self.thresholds) != len(self.labels):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.labels)} labels")
        check_front_end(self.front_end, self.model)
        return self


class Checkpoint:
    """A model together with all that is needed to use it rightly.

    Attributes:
        model: the network, in evaluation mode after `from_pretrained`.
        front_end: the front end's configuration, statistics included.
        vocabulary: the labels, in the order of the model's outputs.
        thresholds: a score per label from which it counts as present, or None.
        calibration: what the logits go through first, or None.
        activation: "sigmoid" for independent labels, "softmax" where exactly one is true.
        window_seconds: longer recordings are tagged in windows of this length.
        moments: whether it was trained to tell moments apart (`atgnn.model.moments`).
        provenance: training data, licence, metrics.
        attribution: a CSV table of the recordings it was trained on, or None.
        heard: hashes of the clips it was trained on, or None where nobody noted them.
    """

    def __init__(
        self,
        model: Network,
        front_end: FrontEndConfig,
        vocabulary: Vocabulary,
        *,
        thresholds: tuple[float, ...] | None = None,
        calibration: Calibration | None = None,
        activation: Literal["sigmoid", "softmax"] = "sigmoid",
        window_seconds: float = 10.0,
        moments: bool = False,
        provenance: Provenance | None = None,
        attribution: str | None = None,
        heard: Heard | None = None,
    ) -> None:
        self.model = model
        self.front_end = front_end
        self.vocabulary = vocabulary
        self.thresholds = thresholds
        self.calibration = calibration
        self.activation: Literal["sigmoid", "softmax"] = activation
        self.window_seconds = window_seconds
        self.moments = moments
        self.provenance = provenance or Provenance()
        self.attribution = attribution
        self.heard = heard
        try:
            self._description = _Description(
                format_version=FORMAT_VERSION,
                model=model.config,
                front_end=front_end,
                labels=vocabulary.to_dict()["labels"],
                thresholds=thresholds,
                calibration=calibration,
                activation=activation,
                window_seconds=window_seconds,
                moments=moments,
                provenance=self.provenance,
            )
        except ValidationError as error:
            raise CheckpointError(f"the parts do not fit: {describe_error(error)}") from None

    def changed(self, **parts: Any) -> "Checkpoint":
        """The same model with other thresholds, provenance or other parts."""
        return Checkpoint(
            parts.pop("model", self.model),
            parts.pop("front_end", self.front_end),
            parts.pop("vocabulary", self.vocabulary),
            **{
                "thresholds": self.thresholds,
                "calibration": self.calibration,
                "activation": self.activation,
                "window_seconds": self.window_seconds,
                "moments": self.moments,
                "provenance": self.provenance,
                "attribution": self.attribution,
                "heard": self.heard,
                **parts,
            },
        )

    def make_front_end(self) -> FrontEnd:
        """The module that turns waveforms into this model's input."""
        return FrontEnd(self.front_end)

    def scores(self, logits: Tensor) -> Tensor:
        """Logits of the model (..., L) to scores from 0 to 1: calibration, then the activation."""
        logits = self.calibrated(logits)
        if self.activation == "softmax":
            return logits.softmax(-1)
        # Vector instructions round otherwise than what is left over at a row's end: labels of packs
        # apart, so that the model's own score the same in every bit with them and without.
        own = base_labels(self.model)
        parts = logits.split([own, logits.shape[-1] - own], dim=-1)
        return torch.cat([part.contiguous().sigmoid() for part in parts], dim=-1)

    def log_odds(self, logits: Tensor) -> Tensor:
        """Logits of the model (..., L) to ``ln(p / (1 - p))`` of the scores p, (..., L).

        Where exactly one label is true, what speaks for another speaks against this one.
        """
        logits = self.calibrated(logits)
        if self.activation == "sigmoid":
            return logits
        own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        others = logits[..., None, :].masked_fill(own, -torch.inf)
        return logits - others.logsumexp(-1)

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits of the model (..., L) after its calibration, where there is one."""
        line = self.calibration
        return logits if line is None else line.scale * logits + line.shift

    def description(self) -> dict[str, Any]:
        """The content of config.json: everything but the weights, as plain data."""
        return self._description.model_dump(mode="json")

    def digest(self) -> str:
        """32 hex digits of weights, layout and front end: equal where the logits are.

        Names of labels, thresholds, calibration and provenance do not count.
        """
        return weights_digest(self.model, self.model.config, self.front_end)

    # ------------------------------------------------------------------ out

    def save_pretrained(self, folder: str | os.PathLike[str], *, half: bool = False) -> Path:
        """Write the folder; with `half`, weights are stored in float16 (half the size).

        Written beside its place and moved there when complete: no crash leaves half a checkpoint.
        A folder that holds other files is refused.
        """
        folder = Path(folder)
        if isinstance(self.model, LabelsBeside):
            raise CheckpointError(
                "this model has labels of packs beside its own: save it without them, they are in "
                "their packs"
            )
        if folder.exists() and (not folder.is_dir() or _foreign(folder)):
            raise CheckpointError(
                f"{folder} exists and is not a checkpoint: choose another name, nothing was written"
            )
        with replacing_folder(folder) as new:
            self._write(new, half)
        return folder

    def _write(self, folder: Path, half: bool) -> None:
        extractor = {
            "feature_extractor_type": HF_EXTRACTOR,
            "sampling_rate": self.front_end.sample_rate,
        }
        for name, content in (("config.json", self.description()), (PREPROCESSOR, extractor)):
            text = json.dumps(content, indent=1, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")
        weights = {name: _for_disk(value, half) for name, value in self.model.state_dict().items()}
        # Not save_file: it makes a file that only its owner can read.
        (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
        (folder / "README.md").write_text(self.card(), encoding="utf-8")
        if self.attribution is not None:
            (folder / ATTRIBUTION).write_text(self.attribution, encoding="utf-8")
        if self.heard is not None:
            (folder / HEARD).write_bytes(self.heard.to_bytes())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        half: bool = False,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload ATGNN checkpoint",
        create_pr: bool = False,
    ) -> str:
        """Upload the folder to the Hugging Face hub; returns the address of the commit."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.save_pretrained(Path(scratch) / "model", half=half)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )
        return str(commit)

    # ------------------------------------------------------------------ in

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> "Checkpoint":
        """Load a model that ships with the package, a folder, or a hub repository ``owner/name``.

        A shipped model or a folder opens no connection.

        Raises:
            CheckpointError: no such model, or the folder is damaged or made for something else.
        """
        folder = _find(name_or_path)
        if folder is None:
            folder = _download(
                str(name_or_path),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        return cls._read(folder)

    @classmethod
    def _read(cls, folder: Path) -> "Checkpoint":
        missing = [name for name in _FILES[:2] if not (folder / name).is_file()]
        if missing:
            within = folder / "model"
            hint = f"; did you mean {within}?" if (within / _FILES[0]).is_file() else ""
            raise CheckpointError(
                f"{folder} is not an ATGNN checkpoint: {' and '.join(missing)} not found in it"
                f"{hint}"
            )
        description = _read_description(folder / "config.json")
        model = empty_network(description.model)
        _read_weights(model, folder / "model.safetensors")
        return cls(
            model.eval(),
            description.front_end,
            Vocabulary.from_dict({"labels": description.labels}),
            thresholds=description.thresholds,
            calibration=description.calibration,
            activation=description.activation,
            window_seconds=description.window_seconds,
            moments=description.moments,
            provenance=description.provenance,
            attribution=_read_attribution(folder),
            heard=Heard.read(folder / HEARD),
        )

    # ------------------------------------------------------------------ card

    def card(self) -> str:
        """The model card, in Markdown with the hub's metadata block."""
        about, config = self.provenance, self.model.config
        size = sum(p.numel() for p in self.model.parameters() if p.requires_grad) / 1e6
        lines = [
            "---",
            "library_name: atgnn",
            "pipeline_tag: audio-classification",
            f"tags: [audio-tagging, {kind_of(config).tag}]",
            *([f"license: {about.licence_id}"] if about.licence_id else []),
            "---",
            "",
            "# ATGNN checkpoint",
            "",
            about.summary or kind_of(config).summary,
            "",
            "| | |",
            "|---|---|",
            f"| labels | {len(self.vocabulary)} |",
            f"| parameters | {size:.2f} M |",
            f"| input | {self.front_end.sample_rate} Hz mono, {self.front_end.summary} |",
            f"| scores | {self.activation}{', calibrated' if self.calibration else ''} |",
            f"| made with | atgnn {about.atgnn_version} |",
            "",
            "```python",
            "from atgnn import Tagger",
            'Tagger.from_pretrained("PATH OR NAME OF THIS MODEL").tag("sound.wav")',
            "```",
        ]
        sections = {
            "Training data": about.training_data,
            "What stands behind it": "\n\n".join(about.lineage),
            "Results": _metrics_table(about),
            "Licence": about.licence,
            "How it was made": about.command and f"```\n{about.command}\n```",
        }
        lines += card_sections(sections, about.notes)
        lines += ["", "## Labels", "", self._label_table()]
        return "\n".join(lines) + "\n"

    def _label_table(self) -> str:
        rows = ["| label | identifier | threshold |", "|---|---|---|"]
        thresholds = self.thresholds or (None,) * len(self.vocabulary)
        for label, threshold in zip(self.vocabulary, thresholds, strict=True):
            mark = "" if threshold is None else f"{threshold:.2f}"
            rows.append(f"| {label.name} | {label.mid or ''} | {mark} |")
        return "\n".join(rows)


def _metrics_table(about: Provenance) -> str:
    if not about.metrics:
        return ""
    rows = [f"| {name} | {value:.4f} |" for name, value in about.metrics.items()]
    table = "\n".join(["| metric | value |", "|---|---|", *rows])
    return f"{about.evaluated_on}\n\n{table}" if about.evaluated_on else table


def _foreign(folder: Path) -> bool:
    """Whether a folder is neither empty nor a checkpoint of ours and nothing else."""
    names = {path.name for path in folder.iterdir()}
    if not names:
        return False
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    ours = isinstance(content, dict) and "format_version" in content
    return not ours or not names <= {*_FILES, *_OTHERS}


def _for_disk(value: torch.Tensor, half: bool) -> torch.Tensor:
    value = value.detach().cpu().contiguous().clone()  # shared tensors are written out
    if not half or value.dtype != torch.float32:
        return value
    if value.abs().max() > torch.finfo(torch.float16).max:
        return value  # a huge batch-norm variance stays as it is
    return value.half()


def _find(name_or_path: str | os.PathLike[str]) -> Path | None:
    """A local folder or a shipped model; None for what can only be a hub repository."""
    folder, name = Path(name_or_path), str(name_or_path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder} is a file: a checkpoint is a folder with config.json")
    if (SHIPPED / name / "config.json").is_file():
        return SHIPPED / name
    if name.startswith(HF_PREFIX):
        raise CheckpointError(
            f"{name} is a model of transformers, which gives scores alone: `atgnn score {name} "
            "CLIPS --out FILE`, then use the file"
        )
    if isinstance(name_or_path, str) and name.count("/") == 1 and not name.startswith((".", "/")):
        return None
    if name in network_names():
        raise CheckpointError(
            f"{name} is a preset, a layout without weights: give a trained model's folder, or one "
            f"that ships ({', '.join(shipped_models()) or 'none'})"
        )
    raise CheckpointError(
        f"no model {name!r}: neither a folder, nor a hub repository (owner/name), "
        f"nor one that ships ({', '.join(shipped_models()) or 'none'})"
        f"{did_you_mean(name, shipped_models())}"
    )


def _download(repo_id: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=[*_FILES, *_OTHERS], **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = reason.replace("Got: ", "")
        raise CheckpointError(
            f"no folder {repo_id!r} here, and the hub did not give one: {reason}"
        ) from None


def _read_attribution(folder: Path) -> str | None:
    path = folder / ATTRIBUTION
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _read_description(path: Path) -> _Description:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from None
    if isinstance(content, dict) and content.get("format") == ENCODER_FORMAT:
        raise CheckpointError(
            f"{path.parent} is an encoder without labels and names no sounds: train a "
            f"tagger from it: `atgnn train folder --clips SOUNDS --out RUN "
            f"--set init={path.parent}`"
        )
    version = content.get("format_version") if isinstance(content, dict) else None
    if version is None:
        raise CheckpointError(f"{path} is not an ATGNN configuration: it has no format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this atgnn {__version__} reads "
            f"{FORMAT_VERSION}: install a matching version"
        )
    try:
        return _Description.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {describe_error(error)}") from None


def _read_weights(model: Network, path: Path) -> None:
    read_weights(model, path)
    if not isinstance(model, ATGNN) or not isinstance(model.label_branch, LabelBranch):
        return
    if model.config.shared_adjacency:
        model.label_branch.share_adjacency()


def read_weights(model: nn.Module, path: Path) -> None:
    """Fill a module, empty ones too, from a safetensors file of exactly its tensors."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None
    expected = model.state_dict()
    for name in sorted(set(expected) ^ set(weights)):
        where = "is missing from" if name in expected else "is unknown in"
        raise CheckpointError(f"{path}: {name} {where} the weights: config.json and it disagree")
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} is {tuple(value.shape)}, config.json asks for "
                f"{tuple(expected[name].shape)}"
            )
        if value.is_floating_point():
            weights[name] = value.float()
    model.load_state_dict(weights, assign=True)
