"""AST: equal to transformers' and to the published code, its files read, usable like ATGNN."""

import json
import sys
import warnings

import pytest
import torch
from baseline_helpers import check_saved_and_loaded, check_train_tag_evaluate, command, recipe
from helpers import LABELS, sound
from other_models import save_ast
from torch.nn import functional
from typer.testing import CliRunner

from atgnn.baselines.ast import AST, AST_PRESETS, ASTConfig, resize_positions
from atgnn.baselines.ast_weights import ast_layout, load_ast
from atgnn.cli import app
from atgnn.errors import CheckpointError, ConfigError, MissingExtraError
from atgnn.frontend import FRONT_ENDS, FrontEnd, FrontEndConfig
from atgnn.networks import empty_network, for_inference, measure_cost, network_preset

transformers = pytest.importorskip("transformers")

TINY = ASTConfig(num_labels=3, n_mels=36, width=128, depth=2, heads=2, nominal_frames=66)


def tiny(**changes: object) -> AST:
    """Few blocks, three rows and six columns of patches."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AST(TINY.replace(**changes)).eval()


def clip(frames: int = 66, bins: int = 36, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, bins, generator=torch.Generator().manual_seed(frames))


# ---------------------------------------------------------------------- files of the Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder as on the Hub, and the network that wrote it."""
    torch.manual_seed(1)
    layout = transformers.ASTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        num_mel_bins=36, max_length=66, num_labels=5,
    )  # fmt: skip
    theirs = transformers.ASTForAudioClassification(layout).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("hub")
    theirs.save_pretrained(folder)
    return folder, theirs


@torch.no_grad()
def test_a_hub_folder_answers_as_transformers_does(hub):
    folder, theirs = hub
    model = AST(ast_layout(folder)).eval()
    report = load_ast(model, folder)
    logits = theirs(clip()).logits
    assert logits.std() > 0.1
    torch.testing.assert_close(model(clip()), logits, atol=1e-5, rtol=1e-5)
    assert len(report.loaded) == len(theirs.state_dict())
    assert not report.left_new
    assert not report.dropped


@torch.no_grad()
def test_names_of_older_and_of_newer_files(hub):
    """Files of the Hub have the names of transformers 4; those of today's library are read too."""
    _, theirs = hub
    layout = TINY.replace(width=48, heads=4, ffn_ratio=2, num_labels=5, norm_eps=1e-12)
    ours = AST(layout.replace(head_norm_eps=1e-12)).eval()
    old = {
        key.replace("backbone.", "audio_spectrogram_transformer.")
        if key.startswith("backbone.")
        else key.replace("norm.", "classifier.layernorm.")
        if key.startswith("norm.")
        else key.replace("classifier.", "classifier.dense."): value
        for key, value in ours.state_dict().items()
    }
    name = "audio_spectrogram_transformer.encoder.layer.1.attention.attention.query.weight"
    assert old[name].shape == (48, 48)
    again = AST(ours.config).eval()
    load_ast(again, old)
    assert torch.equal(again(clip()), ours(clip()))
    load_ast(again, theirs.state_dict())
    torch.testing.assert_close(again(clip()), theirs(clip()).logits, atol=1e-5, rtol=1e-5)


def test_a_backbone_without_a_head(hub):
    folder, theirs = hub
    model = AST(ast_layout(folder)).eval()
    report = load_ast(model, theirs.audio_spectrogram_transformer.state_dict())
    assert {fate.key for fate in report.left_new} == {
        "norm.weight", "norm.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip


def test_other_labels_leave_the_classifier_new(hub):
    folder, _ = hub
    model = AST(ast_layout(folder, num_labels=2))
    before = model.classifier.weight.clone()
    report = load_ast(model, folder)
    assert torch.equal(model.classifier.weight, before)
    assert [fate.note for fate in report.dropped] == ["for 5 classes"] * 2


# ---------------------------------------------------------------------- the original repository


def original(width: int = 128, depth: int = 2, places: int = 18, labels: int = 3) -> dict:
    """Names and shapes of the published state dict: timm's DeiT with AST's head."""
    shapes = {
        "v.cls_token": (1, 1, width),
        "v.dist_token": (1, 1, width),
        "v.pos_embed": (1, places + 2, width),
        "v.patch_embed.proj.weight": (width, 1, 16, 16),
        "v.patch_embed.proj.bias": (width,),
    }
    for block in range(depth):
        for name, rows, columns in [
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ]:
            shapes[f"v.blocks.{block}.{name}.weight"] = (rows, columns)
            shapes[f"v.blocks.{block}.{name}.bias"] = (rows,)
        for name in ("norm1", "norm2"):
            shapes[f"v.blocks.{block}.{name}.weight"] = (width,)
            shapes[f"v.blocks.{block}.{name}.bias"] = (width,)
    shapes |= {"v.norm.weight": (width,), "v.norm.bias": (width,)}
    for name in ("v.head", "v.head_dist"):
        shapes |= {f"{name}.weight": (1000, width), f"{name}.bias": (1000,)}
    shapes |= {"mlp_head.0.weight": (width,), "mlp_head.0.bias": (width,)}
    shapes |= {"mlp_head.1.weight": (labels, width), "mlp_head.1.bias": (labels,)}
    generator = torch.Generator().manual_seed(2)
    return {
        f"module.{name}": 0.2 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def by_hand(state: dict, mel: torch.Tensor, heads: int = 2) -> torch.Tensor:
    """The published forward pass, written from its layers."""
    w = {key.removeprefix("module."): value for key, value in state.items()}

    def linear(x, name):
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name, eps):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    image = mel.transpose(1, 2)[:, None]
    patches = functional.conv2d(
        image, w["v.patch_embed.proj.weight"], w["v.patch_embed.proj.bias"], stride=10
    )
    batch, width = patches.shape[:2]
    x = patches.flatten(2).transpose(1, 2)
    first = torch.cat([w["v.cls_token"], w["v.dist_token"]], 1).expand(batch, -1, -1)
    x = torch.cat([first, x], 1) + w["v.pos_embed"]
    for block in range(sum(key.endswith("attn.qkv.bias") for key in w)):
        here = f"v.blocks.{block}"
        qkv = linear(norm(x, f"{here}.norm1", 1e-6), f"{here}.attn.qkv")
        q, k, v = qkv.view(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * (width // heads) ** -0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{here}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{here}.norm2", 1e-6), f"{here}.mlp.fc1"))
        x = x + linear(hidden, f"{here}.mlp.fc2")
    x = norm(x, "v.norm", 1e-6)
    return linear(norm((x[:, 0] + x[:, 1]) / 2, "mlp_head.0", 1e-5), "mlp_head.1")


@torch.no_grad()
def test_the_original_layout_answers_as_published(tmp_path):
    state = original()
    torch.save(state, tmp_path / "audioset_10_10_0.4593.pth")
    model = AST(ast_layout(tmp_path / "audioset_10_10_0.4593.pth", **SMALL_INPUT)).eval()
    report = load_ast(model, tmp_path / "audioset_10_10_0.4593.pth")
    expected = by_hand(state, clip())
    assert expected.std() > 0.1
    torch.testing.assert_close(model(clip()), expected, atol=1e-4, rtol=1e-4)
    assert {fate.key for fate in report.dropped} == {
        "v.head.weight", "v.head.bias", "v.head_dist.weight", "v.head_dist.bias",
    }  # fmt: skip
    accounted = {fate.key for part in (report.loaded, report.converted, report.dropped)
                 for fate in part}  # fmt: skip
    assert accounted == {key.removeprefix("module.") for key in state}


SMALL_INPUT = {"n_mels": 36, "nominal_frames": 66}


@torch.no_grad()
def test_positions_of_another_length(tmp_path):
    """12 x 101 places in the file; the model hears fewer bins and frames."""
    state = original(places=12 * 101)
    model = AST(ast_layout(state, **SMALL_INPUT))
    report = load_ast(model, state)
    assert [fate.note for fate in report.resized] == ["12 x 101 places to 3 x 6"]
    table = state["module.v.pos_embed"]
    middle = table[:, 2:].view(12, 101, -1)[5:8, 47:53]
    assert torch.equal(model.positions(66)[0, 2:], middle.flatten(0, 1))
    assert torch.equal(model.positions(66)[0, :2], table[0, :2])


@torch.no_grad()
def test_it_begins_with_pictures(tmp_path):
    """A distilled DeiT for 4 x 4 patches in colour: grey sound of that size is a grey picture."""
    state = {
        key.removeprefix("module.v."): value
        for key, value in original(places=16).items()
        if "mlp_head" not in key
    }
    colours = 0.2 * torch.randn(128, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    torch.save({"model": {**state, "patch_embed.proj.weight": colours}}, tmp_path / "deit.pth")
    model = AST(TINY.replace(n_mels=46, nominal_frames=46)).eval()
    report = load_ast(model, tmp_path / "deit.pth")
    assert len(report.left_new) == 4
    assert {fate.key for fate in report.dropped} == {
        "head.weight", "head.bias", "head_dist.weight", "head_dist.bias",
    }  # fmt: skip
    as_ours = {f"v.{key}": value for key, value in state.items()}
    as_ours["v.patch_embed.proj.weight"] = colours.sum(1, keepdim=True)
    for ours, theirs in (("norm", "mlp_head.0"), ("classifier", "mlp_head.1")):
        for part in ("weight", "bias"):
            as_ours[f"{theirs}.{part}"] = model.state_dict()[f"{ours}.{part}"]
    mel = clip(46, 46)
    torch.testing.assert_close(model(mel), by_hand(as_ours, mel), atol=1e-4, rtol=1e-4)
    wide = AST(TINY.replace(n_mels=36, nominal_frames=96))
    report = load_ast(wide, tmp_path / "deit.pth")
    assert [fate.note for fate in report.resized] == ["4 x 4 places to 3 x 9"]


def test_positions_of_another_stride():
    """The repository's file of stride 16 has 8 x 64 places."""
    state = original(places=8 * 64)
    model = AST(ast_layout(state, **SMALL_INPUT, strides=(16, 16)))
    report = load_ast(model, state)
    assert [fate.note for fate in report.resized] == ["8 x 64 places to 2 x 4"]
    with pytest.raises(CheckpointError, match=r"are the model's strides, \(10, 10\), the file's"):
        load_ast(AST(ast_layout(state, **SMALL_INPUT)), state)


def test_positions_that_grow_are_interpolated():
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    table = torch.stack([rows, columns], -1).view(1, 12, 2)
    table = torch.cat([torch.tensor([[[7.0, 8.0], [9.0, 10.0]]]), table], 1)
    wide = resize_positions(table, (3, 4), (3, 8))
    assert wide[0, :2].tolist() == [[7, 8], [9, 10]]
    expected = ((torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 3)
    assert torch.equal(wide[0, 2:].view(3, 8, 2)[1, :, 1], expected)
    assert torch.equal(wide[0, 2:].view(3, 8, 2)[:, 5, 0], torch.arange(3.0))
    narrow = resize_positions(table, (3, 4), (2, 3))
    assert narrow[0, 2:].view(2, 3, 2).tolist() == [
        [[0, 1], [0, 2], [0, 3]],
        [[1, 1], [1, 2], [1, 3]],
    ]


# ---------------------------------------------------------------------- files that do not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("module.v.norm.weight"), "nothing in this file fills backbone.layernorm"),
        (lambda s: s.update({"module.v.gate": torch.ones(1)}), "v.gate is unknown"),
        (lambda s: s.update({"module.v.norm.bias": torch.ones(1)}), r"v.norm.bias gives \(1,\)"),
        (
            lambda s: s.update({"module.v.pos_embed": torch.ones(1, 19, 128)}),
            "is .1, 19, 128., expected 2 places and a multiple of 12",
        ),
        (lambda s: s.update({"epoch": 3}), "epoch is int, expected a tensor"),
    ],
)
def test_weights_that_do_not_fit(change, message):
    state = original()
    model = AST(ast_layout(original(), **SMALL_INPUT))
    before = [value.clone() for value in model.state_dict().values()]
    change(state)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_ast(model, state)
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, before, model.state_dict().values()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"not weights", "is not a PyTorch checkpoint"),
        ("w.safetensors", b"not weights", "no safetensors file"),
        (None, b"", "no such checkpoint file"),
    ],
)
def test_a_file_that_is_no_checkpoint(tmp_path, name, content, message):
    path = tmp_path / (name or "nothing.pth")
    if name:
        path.write_bytes(content)
    for read in (lambda: load_ast(tiny(), path), lambda: ast_layout(path)):
        with pytest.raises(CheckpointError, match=message):
            read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json"),
        ("{", "is not readable JSON"),
        ('{"model_type": "wav2vec2"}', "describes 'wav2vec2', expected model_type 'audio-spec"),
        ('{"model_type": "audio-spectrogram-transformer", "id2label": 5}', "id2label is damaged"),
    ],
)
def test_a_folder_of_something_else(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        ast_layout(tmp_path)


def test_a_folder_without_weights(hub, tmp_path):
    config = json.loads((hub[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"holds no weights: expected model\.safetensors"):
        load_ast(AST(ast_layout(tmp_path)), tmp_path)


def test_other_weights_are_no_ast():
    with pytest.raises(
        CheckpointError, match=r"expected a key v.cls_token, got stem.weight \.\.\."
    ):
        ast_layout({"stem.weight": torch.ones(1)})


def test_settings_that_do_not_fit():
    with pytest.raises(ConfigError, match="width 100 is not a multiple of heads 12"):
        AST_PRESETS["ast"].replace(width=100)
    with pytest.raises(ConfigError, match="n_mels 8 is less than a patch 16"):
        AST_PRESETS["ast"].replace(n_mels=8)
    with pytest.raises(ConfigError, match="in_channels is 3"):
        AST_PRESETS["ast"].replace(in_channels=3)


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"AST needs transformers.*\.\[baselines\]"):
        AST(TINY)


def test_models_lists_the_others(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("atgnn.networks.network_names", lambda: ["ast", "psla"])
    result = CliRunner().invoke(app, ["models", "--json", "--measure"])
    assert result.exit_code == 0
    assert "ast is left out: AST needs transformers" in result.stderr
    assert [row["name"] for row in json.loads(result.stdout)] == ["psla"]


# ---------------------------------------------------------------------- the published system


def test_the_front_end_is_that_of_transformers():
    """1024 frames, two standard deviations, zeros before normalisation past the clip's end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the filter without an FFT bin, as in Kaldi
        extract = transformers.ASTFeatureExtractor()
    for seconds in (1.0, 10.5):
        wave = sound(seconds)
        theirs = extract(wave, sampling_rate=16_000, return_tensors="pt")["input_values"]
        ours, lengths = FrontEnd(FRONT_ENDS["ast"])(torch.from_numpy(wave)[None])
        assert ours.shape == theirs.shape == (1, 1024, 128)
        assert lengths.tolist() == [1024]
        torch.testing.assert_close(ours, theirs.float(), atol=1e-3, rtol=0)


def test_size_and_work_are_the_published_ones():
    """86.6 M at 527 classes; twelve blocks on 1214 tokens."""
    cost = measure_cost(network_preset("ast", num_labels=527))
    assert cost.trainable_parameters == 86_594_063
    tokens, width = 2 + 12 * 101, 768
    per_block = tokens * 12 * width**2 + 2 * tokens**2 * width
    macs = 12 * per_block + (tokens - 2) * 256 * width + width * 527
    assert cost.gmacs == pytest.approx(macs / 1e9, rel=1e-6)


def test_the_published_count_with_the_heads_of_imagenet():
    """What docs/baselines.md says of the paper's 88.7 M."""
    ours = sum(
        p.numel() for p in empty_network(AST_PRESETS["ast"].replace(num_labels=527)).parameters()
    )
    heads, colours = 2 * (768 * 1000 + 1000), 3 * 256 * 768 + 768
    assert round((ours + heads) / 1e6, 2) == 88.13
    assert round((ours + heads + colours) / 1e6, 2) == 88.72


# ---------------------------------------------------------------------- like any network


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 16, 45, 66, 90])
def test_scores_do_not_depend_on_the_batch(length):
    model = tiny()
    mel = clip(length, batch=1)
    alone = model(mel)
    padded = torch.full((3, 97, 36), 50.0)
    padded[0, :length] = mel[0]
    batched = model(padded, torch.tensor([length, 97, 30]))
    assert alone.std() > 0.01
    torch.testing.assert_close(batched[:1], alone, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_weight_whatever_the_length():
    for frames in (40, 66, 90):
        model = tiny().train()
        model(clip(frames)).square().sum().backward()
        quiet = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
        # softmax does not notice what is added to all keys
        assert [
            name for name in quiet if "k_proj.bias" not in name and "key.bias" not in name
        ] == []


def test_residual_branches_begin_as_told():
    model = tiny(dropout=0.0)
    model.initialise(residual_scale=0.0)
    with torch.no_grad():
        tokens = model.backbone.embeddings.cls_token + model.positions(66)[:, :1]
        other = model.backbone.embeddings.distillation_token + model.positions(66)[:, 1:2]
        mean = model.backbone.layernorm(torch.cat([tokens, other], 1)).mean(1)
        expected = model.classifier(model.norm(mean))
        torch.testing.assert_close(model(clip(batch=1)), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_half_precision_hears_nearly_the_same():
    model = tiny()
    full, half = (for_inference(model, kind)(clip()) for kind in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(full, model(clip()), atol=1e-6, rtol=1e-5)
    assert half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.05 * full.norm()


def test_input_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(B, frames, 36\), got \(1, 10, 16\)"):
        tiny()(torch.zeros(1, 10, 16))


def test_a_checkpoint_holds_it(tmp_path):
    one = check_saved_and_loaded(
        tiny(num_labels=len(LABELS)), FrontEndConfig(n_mels=36, pad_to_frames=66), tmp_path / "m"
    )
    assert "An Audio Spectrogram Transformer" in one.card()
    names = one.model.state_dict()
    assert "backbone.encoder.layer.1.attention.attention.query.weight" in names


MODEL = {"preset": "ast", "width": 16, "depth": 2, "heads": 2, "nominal_frames": 66}
FRONT_END = {"preset": "own", "n_mels": 36, "pad_to_frames": 66}


def test_train_tag_evaluate(tmp_path):
    run = check_train_tag_evaluate(recipe(tmp_path, MODEL, FRONT_END))
    settings = json.loads((run / "model" / "config.json").read_text())
    assert settings["front_end"]["std"] == pytest.approx(2 * 4.5689974)


def test_a_run_starts_from_published_weights(tmp_path, hub):
    """From a folder of the Hub and from a file of the original repository."""
    torch.save(original(), tmp_path / "audioset_10_10_0.4593.pth")
    hub_model = {**MODEL, "width": 48, "heads": 4, "ffn_ratio": 2}
    for number, (init, model) in enumerate([
        (hub[0], hub_model),
        (tmp_path / "audioset_10_10_0.4593.pth", {**MODEL, "width": 128}),
    ]):  # fmt: skip
        path = recipe(tmp_path, model, FRONT_END, init=str(init))
        run = tmp_path / f"run{number}"
        command("train", str(path), "--out", str(run))
        report = (run / "init.txt").read_text()
        assert "left new" in report
        assert "classifier.weight" in report
        assert f"the published ones of {init.name}" in (run / "model" / "README.md").read_text()


def test_statistics_of_a_hub_folder_are_held_to(tmp_path):
    folder = save_ast(tmp_path / "hub")
    model = {"preset": "ast", "width": 16, "depth": 1, "heads": 2, "ffn_ratio": 1}
    path = recipe(tmp_path, model, {"preset": "paper", "n_mels": 32}, init=str(folder))
    result = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "was trained with another front end (mean " in said
    assert "--set front_end.mean=-4.2677393" in said


def test_a_folder_of_something_else_is_no_start(tmp_path):
    (tmp_path / "other").mkdir()
    path = recipe(tmp_path, MODEL, FRONT_END, init=str(tmp_path / "other"))
    result = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "other is not an ATGNN checkpoint" in result.output.replace("\n", "")
