"""What all baselines share, on a small one made here."""

import torch
from torch import nn

from atgnn.baselines.base import Baseline, BaselineConfig
from atgnn.training.norms import measure_norms


class TinyConfig(BaselineConfig):
    kind: str = "tiny"
    front_end = "paper"


class Tiny(Baseline):
    by_label = ("classifier.weight", "classifier.bias")
    least_frames = 6

    def __init__(self, config):
        super().__init__(config)
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, config.num_labels)

    def logits(self, mel):
        out = torch.relu(self.norm(self.conv(mel[:, None])))
        return self.classifier(torch.nn.functional.max_pool2d(out, 6).flatten(2).mean(2))

    def norm_pairs(self):
        yield self.conv, self, "norm"


def tiny():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tiny(TinyConfig(num_labels=3, n_mels=8)).train()
        model(torch.randn(4, 20, 8))
    return model.eval()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@torch.no_grad()
def test_scores_do_not_depend_on_the_batch():
    model, mel = tiny(), noise(5, 30, 8)
    lengths = torch.tensor([30, 2, 17, 30, 17])
    out = model(mel, lengths)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(out[row], model(mel[row : row + 1, :length])[0])
    assert out.std(0).min() > 1e-3


def test_training_sees_zeros_past_the_end():
    model, mel = tiny().train(), noise(3, 20, 8)
    zeroed = mel.clone()
    zeroed[1, 5:] = 0
    torch.testing.assert_close(model(mel, torch.tensor([20, 5, 20])), model(zeroed))


def test_norms_measured_over_unequal_clips_see_what_training_sees():
    mel, lengths = noise(4, 20, 8), torch.tensor([20, 5, 20, 11])
    trained, measured = tiny().train(), tiny()
    trained.norm.momentum = 1.0
    trained(mel, lengths)
    measure_norms(measured, [(mel, lengths)])
    torch.testing.assert_close(measured.norm.running_mean, trained.norm.running_mean)
    torch.testing.assert_close(measured.norm.running_var, trained.norm.running_var)


@torch.no_grad()
def test_folding_changes_nothing_but_rounding():
    model, mel = tiny(), noise(3, 20, 8)
    lengths = torch.tensor([20, 9, 20])
    folded = model.for_inference()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(mel, lengths), model(mel, lengths), atol=1e-5, rtol=1e-4)
    half = model.for_inference(torch.bfloat16)(mel, lengths)
    assert half.dtype == torch.float32
    assert 0 < (half - model(mel, lengths)).abs().max() < 0.05


def test_cost_is_counted():
    cost = tiny().measure_cost(20)
    assert cost.trainable_parameters == 4 * 9 + 8 + 15
    assert round(cost.gmacs * 1e9) == 20 * 8 * 4 * 9 + 12
