"""A patch encoder without labels, as one self-describing folder: what pre-training leaves.

``config.json`` holds layout, front end and provenance, ``model.safetensors`` the weights of the
encoder alone, ``README.md`` is its card. It names no sounds: a run starts from it (``init``), and
its embeddings serve other classifiers.
"""

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors.torch import save
from torch import Tensor

from atgnn.checkpoint import (
    ENCODER_FORMAT,
    Provenance,
    card_sections,
    read_weights,
)
from atgnn.errors import CheckpointError, describe_error
from atgnn.files import replacing_folder
from atgnn.frontend import FrontEnd, FrontEndConfig
from atgnn.model import ATGNN, ModelConfig
from atgnn.model.empty import empty_model
from atgnn.model.layers import spread_of
from atgnn.model.patch import PatchEncoder
from atgnn.networks import check_front_end

__all__ = ["Encoder", "embed", "is_encoder"]

_FILES = ("config.json", "model.safetensors", "README.md")


class _Description(BaseModel):
    """The content of config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["atgnn encoder"] = ENCODER_FORMAT
    format_version: Literal[1] = 1
    model: ModelConfig
    front_end: FrontEndConfig
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _agrees(self) -> "_Description":
        check_front_end(self.front_end, self.model)
        return self


class Encoder:
    """Stem and patch blocks with the front end that they learned from.

    Attributes:
        network: the patch encoder, in evaluation mode after `from_pretrained`.
        config: its layout; what it says of labels and head means nothing here.
        front_end: the front end's configuration, statistics included.
        provenance: what it learned from, and how.
    """

    def __init__(
        self,
        network: PatchEncoder,
        config: ModelConfig,
        front_end: FrontEndConfig,
        provenance: Provenance | None = None,
    ) -> None:
        self.network, self.front_end = network, front_end
        self.config = config.replace(num_labels=1, label_blocks=())
        self.provenance = provenance or Provenance()
        try:
            self._description = _Description(
                model=self.config, front_end=front_end, provenance=self.provenance
            )
        except ValidationError as error:
            raise CheckpointError(f"the parts do not fit: {describe_error(error)}") from None

    def embed(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Waveforms ``(B, S)`` in [-1, 1] at the front end's rate to embeddings ``(B, 2 C)``.

        `lengths` ``(B,)`` are the samples of each clip; None: all of them.
        """
        front_end = FrontEnd(self.front_end).to(wave.device)
        mel, frames = front_end(wave, lengths)
        return embed(self.network, mel, None if lengths is None else frames)

    def start(self, model: ATGNN) -> str:
        """Copy the weights into a model of the same layout; returns one line about it.

        Raises `CheckpointError` where the layouts differ; `model` is unchanged then.
        """
        ours, theirs = model.encoder.state_dict(), self.network.state_dict()
        for name in sorted(set(ours) | set(theirs)):
            came, expected = (part.get(name) for part in (theirs, ours))
            if came is None or expected is None or came.shape != expected.shape:
                shapes = [
                    "missing" if part is None else str(tuple(part.shape))
                    for part in (came, expected)
                ]
                raise CheckpointError(
                    f"the layouts differ: {name} is {shapes[0]} in the encoder to start from, "
                    f"{shapes[1]} in the model: set model.preset and its fields as it was trained"
                )
        model.encoder.load_state_dict(theirs)
        new = "head and label blocks are" if model.config.has_labels else "the head is"
        return f"{len(theirs)} tensors of the encoder copied, {new} new"

    # ------------------------------------------------------------------ folder

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder, whole or not at all; one that holds other files is refused."""
        folder = Path(folder)
        if folder.exists() and not (folder.is_dir() and _ours(folder)):
            raise CheckpointError(
                f"{folder} exists and is not an encoder: choose another name, nothing was written"
            )
        config = json.dumps(self._description.model_dump(mode="json"), indent=1, ensure_ascii=False)
        weights = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in self.network.state_dict().items()
        }
        with replacing_folder(folder) as new:
            (new / "config.json").write_text(config + "\n", encoding="utf-8")
            (new / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
            (new / "README.md").write_text(self.card(), encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> "Encoder":
        """Read a folder that `save_pretrained` wrote; CheckpointError where it is no such thing."""
        folder = Path(folder)
        if not is_encoder(folder) or not (folder / "model.safetensors").is_file():
            raise CheckpointError(f"{folder} holds no pre-trained encoder")
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        try:
            description = _Description.model_validate(content)
        except ValidationError as error:
            raise CheckpointError(f"{folder / 'config.json'}: {describe_error(error)}") from None
        network = empty_model(description.model).encoder
        read_weights(network, folder / "model.safetensors")
        return cls(network.eval(), description.model, description.front_end, description.provenance)

    def card(self) -> str:
        """The card, in Markdown with the hub's metadata block."""
        size = sum(p.numel() for p in self.network.parameters()) / 1e6
        about = self.provenance
        lines = [
            "---",
            "library_name: atgnn",
            "tags: [audio, self-supervised, graph-neural-network]",
            "---",
            "",
            "# ATGNN encoder without labels",
            "",
            about.summary or "Learned from sound that nobody labelled.",
            "",
            "It names no sounds: it is what a tagger starts from.",
            "",
            "| | |",
            "|---|---|",
            "| labels | none |",
            f"| parameters | {size:.2f} M |",
            f"| input | {self.front_end.sample_rate} Hz mono, {self.front_end.summary} |",
            f"| made with | atgnn {about.atgnn_version} |",
            "",
            "```sh",
            "atgnn train folder --clips SOUNDS --out RUN --set init=PATH_OF_THIS_FOLDER",
            "```",
        ]
        sections = {
            "Training data": about.training_data,
            "Licence": about.licence,
            "How it was made": about.command and f"```\n{about.command}\n```",
        }
        lines += card_sections(sections, about.notes)
        return "\n".join(lines) + "\n"


def is_encoder(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder says of itself that it holds an encoder without labels."""
    try:
        content = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == ENCODER_FORMAT


def embed(encoder: PatchEncoder, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Normalised log-mel ``(B, T, n_mels)`` to embeddings ``(B, 2 C)``.

    Mean and standard deviation of the last stage's patch nodes over frequency and time. The
    deviation says how much a sound changes, which the mean alone loses.
    """
    return spread_of(encoder(mel, lengths)[-1][-1])


def _ours(folder: Path) -> bool:
    """Whether a folder is empty, or holds an encoder and nothing else."""
    names = {path.name for path in folder.iterdir()}
    return not names or (names <= set(_FILES) and is_encoder(folder))
