"""A folded model computes what the model computes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from atgnn.errors import ConfigError
from atgnn.model import ATGNN, ModelConfig, products
from atgnn.model.inference import best_dtype, for_inference, half_is_fast
from atgnn.model.layers import BatchNorm, Relation

CONFIGS = {
    "pyramid": {},
    "isotropic": {
        "channels": (16,),
        "blocks": (2,),
        "reductions": (1,),
        "position": "none",
        "label_blocks": (1,),
        "label_placement": "after_block",
    },
    "legacy": {"position": "legacy"},
    "mean and spread": {"pooling": "mean_std"},
    "dense update, one label width": {
        "update_groups": 1,
        "label_update_groups": 2,
        "label_width": 24,
        "label_ffn_ratio": 0,
    },
    "encoder only": {"label_blocks": ()},
    "inverted bottlenecks": {
        "trunk": "lite0",
        "stem_widths": (16, 24, 40, 112),
        "stem_strides": (2, 2, 2, 2),
        "channels": (112, 320),
        "blocks": (1, 1),
        "reductions": (1, 1),
    },
}
BOTH = pytest.mark.parametrize("name", ["pyramid", "inverted bottlenecks"])


def settled(name: str) -> ATGNN:
    """A model in float64 with statistics, scales and offsets that are not 0 and 1."""
    changes = {
        "num_labels": 6,
        "n_mels": 16,
        "nominal_frames": 64,
        "stem_widths": (8, 16),
        "stem_strides": (2, 2),
        "channels": (16, 32),
        "blocks": (2, 2),
        "reductions": (2, 1),
        "k": 3,
        "head_width": 20,
        "label_blocks": (1, 1),
    }
    torch.manual_seed(1)
    model = ATGNN(ModelConfig.model_validate({**changes, **CONFIGS[name]})).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(sound())
    return model.eval()


def sound() -> Tensor:
    return torch.randn(3, 50, 16, dtype=torch.float64) * torch.rand(3, 1, 16).double()


@pytest.mark.parametrize("lengths", [None, torch.tensor([50, 31, 8])])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_folding_changes_nothing_but_rounding(name: str, lengths: Tensor | None) -> None:
    model = settled(name)
    before = copy.deepcopy(model.state_dict())
    folded, mel = for_inference(model), sound()
    with torch.no_grad():
        wanted = model(mel, lengths)
    found = folded(mel, lengths)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert not found.requires_grad
    left = [m for m in folded.modules() if isinstance(m, BatchNorm | Relation)]
    assert not left, "every norm and every subtraction is in the weights"
    assert all(before[key].equal(value) for key, value in model.state_dict().items())


@BOTH
def test_float32_scores(name: str) -> None:
    model = settled(name).float()
    mel = sound().float()
    with torch.no_grad():
        wanted = model(mel).sigmoid()
    torch.testing.assert_close(for_inference(model)(mel).sigmoid(), wanted, rtol=0, atol=1e-4)


@BOTH
def test_bfloat16_weights_and_float32_logits(name: str) -> None:
    model = settled(name).float()
    folded = for_inference(model, torch.bfloat16)
    seen: list[torch.dtype] = []
    for place, module in folded.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            in_stem = ".stem." in place
            assert module.weight.dtype == (torch.float32 if in_stem else torch.bfloat16)
            if not in_stem:
                module.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    logits = folded(sound().float())
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert set(seen) == {torch.bfloat16}, "the work is done in bfloat16"


def test_refuses_other_dtypes() -> None:
    with pytest.raises(ConfigError, match="float32, bfloat16 or float16"):
        for_inference(settled("pyramid"), torch.int8)


def test_half_precision_only_where_it_is_fast() -> None:
    device = torch.device("cpu")
    wanted = torch.bfloat16 if half_is_fast(device) else torch.float32
    assert best_dtype(device) == wanted
    assert best_dtype(torch.device("meta")) == torch.float32


@BOTH
def test_the_products_of_onednn_agree_or_are_not_used(name: str, monkeypatch) -> None:
    """The operators are private to PyTorch: where one is not as expected, all goes on without."""
    torch.manual_seed(3)
    model, mel = settled(name).float(), sound().float()
    with torch.no_grad():
        wanted = model(mel)
    fused = for_inference(model)
    kinds = {type(module).__name__ for module in fused.modules()}
    assert ("_Linear" in kinds) == products.available()
    assert ("_Convolution" in kinds) == (products.available() and model.config.trunk == "lite0")
    torch.testing.assert_close(fused(mel), wanted, rtol=1e-4, atol=1e-4)

    def wrong(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "") -> Tensor:
        return nn.functional.linear(x, weight, bias) + 1

    monkeypatch.setattr(products, "linear", wrong)
    products.available.cache_clear()
    try:
        assert not products.available()
        plain = for_inference(model)
        assert "_Linear" not in {type(module).__name__ for module in plain.modules()}
        torch.testing.assert_close(plain(mel), wanted, rtol=1e-4, atol=1e-4)
    finally:
        monkeypatch.undo()
        products.available.cache_clear()
