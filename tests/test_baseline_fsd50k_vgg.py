"""The FSD50K paper's VGG-like network: against a restatement, its size, its patches."""

import pytest
import torch
from torch.nn import functional

from atgnn.baselines import fsd50k_vgg
from atgnn.baselines.fsd50k_vgg import FSD50K_VGG_PRESETS, FSD50KVGG
from atgnn.errors import ConfigError
from atgnn.networks import own_front_end, preset_cost

SMALL = FSD50K_VGG_PRESETS["fsd50k-vgg"].replace(
    num_labels=3, n_mels=12, channels=((4, 4), (8,)), hidden=6, patch_frames=10, patch_step=5
)


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FSD50KVGG(SMALL).train()
        model(noise(8, 10, 12))
    return model.eval()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def restated(model, patch):
    """Logits (B, S) of patches (B, T, F) by plain functions on the weights, in their order."""
    state = model.state_dict()

    def conv(x, name):
        x = functional.conv2d(
            x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], padding=1
        )
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{name}.norm.{key}"] for key in keys)).relu()

    x = conv(conv(patch[:, None], "groups.0.0"), "groups.0.1")
    x = conv(functional.max_pool2d(x, (2, 2)), "groups.1.0").flatten(2)
    x = torch.cat([x.max(2).values, x.mean(2)], 1)
    x = functional.linear(x, state["hidden.weight"], state["hidden.bias"]).relu()
    return functional.linear(x, state["classifier.weight"], state["classifier.bias"])


@torch.no_grad()
def test_a_patch_is_scored_as_restated():
    model, mel = small(), noise(4, 10, 12)
    torch.testing.assert_close(model(mel), restated(model, mel))
    assert model(mel).std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "starts"), [(15, [0, 5]), (17, [0, 5, 7]), (30, range(0, 21, 5))]
)
def test_a_clip_has_the_mean_probability_of_its_patches(frames, starts):
    model, mel = small(), noise(2, frames, 12)
    mean = torch.stack([restated(model, mel[:, i : i + 10]).sigmoid() for i in starts]).mean(0)
    torch.testing.assert_close(model(mel).sigmoid(), mean)


@torch.no_grad()
def test_many_patches_are_scored_in_portions(monkeypatch):
    model, mel = small(), noise(3, 30, 12)
    whole = model(mel)
    monkeypatch.setattr(fsd50k_vgg, "AT_ONCE", 4)
    sizes = []
    model.groups[0].register_forward_hook(lambda module, inputs, out: sizes.append(len(out)))
    torch.testing.assert_close(model(mel), whole)
    assert sizes == [4, 4, 4, 3]


@torch.no_grad()
def test_certain_patches_have_finite_logits():
    model = small()
    model.classifier.weight.mul_(1e4)
    assert model(noise(2, 30, 12)).isfinite().all()


@torch.no_grad()
def test_scores_do_not_depend_on_the_batch():
    model, mel = small(), noise(3, 33, 12)
    batched = model(mel, torch.tensor([3, 33, 21]))
    for row, length in enumerate((3, 33, 21)):
        torch.testing.assert_close(batched[row], model(mel[row : row + 1, :length])[0])
    short = functional.pad(mel[:1, :3], (0, 0, 0, 7))  # completed with zeros to a patch
    torch.testing.assert_close(batched[:1], restated(model, short))


def test_size_is_the_published_one():
    """0.27 M at 200 classes (Fonseca et al., 2022); patches of 101 x 96."""
    cost = preset_cost("fsd50k-vgg", 1_000, num_labels=200)
    assert cost.trainable_parameters == 265_992
    config, front_end = FSD50K_VGG_PRESETS["fsd50k-vgg"], own_front_end("fsd50k-vgg")
    assert front_end.seconds_to_frames(1) == config.patch_frames == 101
    assert front_end.n_mels == config.n_mels == 96


@torch.no_grad()
def test_folding_changes_nothing_but_rounding():
    model, mel = small(), noise(2, 30, 12)
    torch.testing.assert_close(model.for_inference()(mel), model(mel), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_channels": 2}, "in_channels is 2, expected 1"),
        ({"channels": ((4,), ())}, "a group without convolutions"),
        ({"patch_frames": 3}, "patches of 3 frames and 96 bins are too small"),
    ],
)
def test_layouts_that_cannot_be(changes, words):
    with pytest.raises(ConfigError, match=words):
        FSD50K_VGG_PRESETS["fsd50k-vgg"].replace(**changes)
