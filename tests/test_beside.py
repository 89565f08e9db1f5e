"""New labels beside a model's own: what the old ones compute does not change in any bit."""

import pytest
import torch
from helpers import tiny_model

from atgnn.model import ATGNN
from atgnn.model.beside import LabelsBeside, NewLabels, heard, label_levels, new_states
from atgnn.model.inference import for_inference, for_inference_beside
from atgnn.model.label import LabelBranch


def new_labels(model: ATGNN, count: int, seed: int = 0) -> NewLabels:
    generator = torch.Generator().manual_seed(seed)
    new = NewLabels(model.config, count)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return new


def variants() -> dict[str, ATGNN]:
    model = tiny_model()
    config = model.config
    changes = {
        "every block": {"label_placement": "after_block", "blocks": (2, 1)},
        "several blocks": {"label_blocks": (2, 3)},
        "a stage without": {"label_blocks": (0, 1)},
        "one width": {"label_width": 24, "shared_adjacency": True},
        "no labels": {"label_blocks": ()},
        "mean and spread": {"pooling": "mean_std"},
    }
    return {
        "as it is": model,
        **{name: ATGNN(config.replace(**change)).eval() for name, change in changes.items()},
    }


VARIANTS = variants()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("count", [1, 3, 40])
@torch.inference_mode()
def test_old_scores_are_the_same_in_every_bit(name, count):
    model = VARIANTS[name]
    both = LabelsBeside(model, new_labels(model, count)).eval()
    mel = torch.randn(3, 40, 32)
    lengths = torch.tensor([40, 7, 25])
    for given in (None, lengths):
        alone, beside = model(mel, given), both(mel, given)
        assert beside.shape == (3, 5 + count)
        assert torch.equal(alone, beside[:, :5])
        assert beside[:, 5:].std() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_old_scores_are_the_same_when_folded(dtype):
    model = tiny_model()
    both = LabelsBeside(model, new_labels(model, 3))
    alone, beside = for_inference(model, dtype), for_inference_beside(both, dtype)
    for frames in (1, 33, 64):
        mel = torch.randn(2, frames, 32)
        scores = beside(mel)
        assert torch.equal(alone(mel), scores[:, :5])
        assert torch.isfinite(scores).all()
        if dtype == torch.float32:
            torch.testing.assert_close(scores, both.eval()(mel), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_new_label_is_what_a_label_of_the_model_would_be():
    """A model whose adjacency is [[A, 0], [a, s]] scores as the model of A with (a, s) beside."""
    model = tiny_model()
    new = new_labels(model, 2)
    torch.nn.init.zeros_(new.summary)
    whole = ATGNN(model.config.replace(num_labels=7)).eval()
    state = whole.state_dict()
    for name, value in model.state_dict().items():
        if name.endswith("adjacency"):
            state[name].zero_()[:5, :5] = value
        elif name in ATGNN.by_label:
            state[name][:5] = value
        else:
            state[name].copy_(value)
    state["patch_head.fc2.weight"][5:], state["patch_head.fc2.bias"][5:] = new.head, new.bias
    state["label_branch.embedding"][5:] = new.embedding
    state["label_branch.readout"][5:] = new.readout
    for place, level in enumerate(whole.label_branch.levels):
        adjacency = level.blocks[0].llg.adjacency
        adjacency[5:, :5] = new.rows[:, place, :-1]
        adjacency[[5, 6], [5, 6]] = new.rows[:, place, -1]
    mel = torch.randn(2, 50, 32)
    torch.testing.assert_close(LabelsBeside(model, new)(mel), whole(mel), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_new_labels_do_not_hear_one_another():
    model, mel = tiny_model(), torch.randn(2, 50, 32)
    new = new_labels(model, 3)
    together = LabelsBeside(model, new)(mel)[:, 5:]
    for row in range(3):
        weights = {name: value[row : row + 1] for name, value in new.state_dict().items()}
        alone = LabelsBeside(model, NewLabels.of(model.config, weights))(mel)[:, 5:]
        torch.testing.assert_close(alone, together[:, row : row + 1], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_padding_has_no_influence_on_new_labels():
    model = tiny_model()
    both = LabelsBeside(model, new_labels(model, 2)).eval()
    mel = torch.randn(1, 48, 32)
    padded = torch.cat([mel, torch.full((1, 16, 32), 9.0)], 1)
    alone, batched = both(mel), both(padded, torch.tensor([48]))
    torch.testing.assert_close(alone, batched, rtol=1e-4, atol=1e-4)


def test_an_embedding_learns_from_its_logit():
    model = tiny_model().requires_grad_(False)
    both = LabelsBeside(model, new_labels(model, 2))
    both(torch.randn(2, 30, 32))[:, 5:].sum().backward()
    for name, parameter in both.new.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_what_was_heard_ends_at_the_old_logits():
    model = tiny_model()
    assert isinstance(model.label_branch, LabelBranch)
    with torch.inference_mode():
        stages = model.encoder(torch.randn(2, 30, 32))
        found, logits = heard(model.label_branch, label_levels(model, stages))
        assert torch.equal(logits, model.label_branch(stages))
        new = new_labels(model, 4)
        assert new_states(found, new.embedding, new.rows).shape == (2, 4, 32)


def test_weights_of_another_model_are_refused():
    model = tiny_model()
    weights = new_labels(model, 2).state_dict()
    with pytest.raises(ValueError, match=r"rows is \(2, 2, 6\), expected \(2, 2, 9\)"):
        NewLabels.of(model.config.replace(num_labels=8), weights)
    with pytest.raises(ValueError, match="readout is missing"):
        NewLabels.of(model.config, {k: v for k, v in weights.items() if k != "readout"})
    with pytest.raises(ValueError, match=r"other is .*expected no such thing"):
        NewLabels.of(model.config, {**weights, "other": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"bias is \(\), expected \(1,\)"):
        NewLabels.of(model.config, {**weights, "bias": torch.tensor(0.0)})
