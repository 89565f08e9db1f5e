"""An encoder without labels: its folder, its embeddings, and a tagger that starts from it."""

import json

import pytest
import torch
from helpers import tiny_checkpoint, tiny_model
from typer.testing import CliRunner

from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.cli import app
from atgnn.encoder import Encoder, embed, is_encoder
from atgnn.errors import CheckpointError
from atgnn.frontend import FrontEndConfig


@pytest.fixture
def encoder():
    model = tiny_model()
    about = Provenance(summary="For tests.", training_data="Noise.", command="atgnn pretrain X")
    return Encoder(model.encoder, model.config, FrontEndConfig(n_mels=32), about)


def test_a_folder_survives_a_round_trip(encoder, tmp_path):
    folder = encoder.save_pretrained(tmp_path / "encoder")
    again = Encoder.from_pretrained(folder)
    assert is_encoder(folder)
    assert (again.config, again.front_end) == (encoder.config, encoder.front_end)
    assert again.provenance == encoder.provenance
    theirs = encoder.network.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in again.network.state_dict().items())
    assert not again.network.training
    card = (folder / "README.md").read_text()
    assert "labels | none" in card
    assert "Noise." in card
    encoder.save_pretrained(folder)  # over itself
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder"]


def test_foreign_folders_are_left_alone(encoder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="nothing was written"):
        encoder.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    with pytest.raises(CheckpointError, match="nothing was written"):
        encoder.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"
    with pytest.raises(CheckpointError, match="holds no pre-trained encoder"):
        Encoder.from_pretrained(tmp_path)
    tagger = tiny_checkpoint().save_pretrained(tmp_path / "tagger")
    assert not is_encoder(tagger)


def test_tagging_with_an_encoder_is_one_clear_line(encoder, tmp_path):
    folder = encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(CheckpointError, match="without labels"):
        Checkpoint.from_pretrained(folder)
    result = CliRunner().invoke(app, ["tag", "x.wav", "--model", str(folder)])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"init={folder}" in result.stderr


def test_a_damaged_folder_is_refused(encoder, tmp_path):
    folder = encoder.save_pretrained(tmp_path / "encoder")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "format_version": 9}))
    with pytest.raises(CheckpointError, match="format_version"):
        Encoder.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="damaged"):
        Encoder.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="front end with 128 bins"):
        Encoder(encoder.network, encoder.config, FrontEndConfig())


def test_a_model_starts_from_it(encoder):
    model = tiny_model(num_labels=3, seed=1)
    head = model.patch_head.fc2.weight.clone()
    report = encoder.start(model)
    assert "head and label blocks are new" in report
    theirs = encoder.network.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in model.encoder.state_dict().items())
    assert torch.equal(model.patch_head.fc2.weight, head)


def test_another_layout_is_refused_and_left_as_it_was(encoder):
    from atgnn.model import ATGNN

    model = ATGNN(encoder.config.replace(channels=(16, 48)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"layouts differ.*in the encoder.*in the model"):
        encoder.start(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_embeddings_are_mean_and_deviation_of_valid_nodes(encoder):
    mel = torch.randn(2, 64, 32, generator=torch.manual_seed(0))
    nodes = encoder.network(mel)[-1][-1].x.flatten(1, 2)
    expected = torch.cat([nodes.mean(1), (nodes.var(1, unbiased=False) + 1e-6).sqrt()], 1)
    torch.testing.assert_close(embed(encoder.network, mel), expected)
    # What lies past a clip's end does not count.
    padded = torch.cat([mel[:1, :40], torch.full((1, 24, 32), 7.0)], 1)
    ragged = embed(encoder.network, torch.cat([padded, mel[1:]]), torch.tensor([40, 64]))
    torch.testing.assert_close(ragged[:1], embed(encoder.network, mel[:1, :40]), atol=1e-4, rtol=0)


def test_sounds_become_embeddings(encoder):
    wave = 0.1 * torch.randn(2, 16_000, generator=torch.manual_seed(1))
    vectors = encoder.embed(wave, torch.tensor([16_000, 9_000]))
    assert vectors.shape == (2, 64)
    alone = encoder.embed(wave[1:, :9_000])
    torch.testing.assert_close(vectors[1:], alone, atol=1e-4, rtol=0)
