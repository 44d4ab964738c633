"""The layout of the weights for one frame: the parameters are views of it, whatever happens to them later.

That a step equals the whole pass is tested in test_transformer.py.
"""

import copy

import pytest
import torch

from dreamer_ray.nn.transformer import Transformer
from dreamer_ray.training.optimizer import OptimizerConfig, make_optimizer

FRAMES, TOKENS = 6, 3


@pytest.fixture
def model(tiny):
    return Transformer(tiny.transformer_config()).double().requires_grad_(False)


def _stepwise(model, x):
    cache, parts = model.new_cache(x.shape[0], TOKENS), []
    for t in range(x.shape[1]):
        parts.append(model.step(x[:, t : t + 1], cache))
        cache.advance()
    return torch.cat(parts, 1)


def _x(dtype=torch.float64):
    return torch.randn(2, FRAMES, TOKENS, 16, dtype=dtype)


def test_the_layout_changes_no_weight_and_takes_no_memory(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.new_cache(1, TOKENS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    first = model.blocks[0].attention
    storages = {layer.weight.untyped_storage().data_ptr() for layer in (first.query, first.key, first.value)}
    assert len(storages) == 1
    assert first.query.weight.untyped_storage().nbytes() == 8 * sum(layer.weight.numel() for layer in (first.query, first.key, first.value))


def test_weights_that_are_loaded_later_are_used(tiny, model):
    other, x = Transformer(tiny.transformer_config()).double(), _x()
    cache = model.new_cache(2, TOKENS)
    model.load_state_dict(other.state_dict())
    assert torch.allclose(model.step(x[:, :1], cache), other(x[:, :1]), atol=1e-12)
    with torch.no_grad():
        model.blocks[0].attention.query_norm.weight.mul_(2)
        assert torch.allclose(_stepwise(model, x), model(x), atol=1e-12)
        assert not torch.allclose(model(x), other(x), atol=1e-3)


@pytest.mark.parametrize("laid_out", ["frozen", "in training"])
def test_training_goes_on_after_a_layout(model, laid_out):
    x, twin = _x(), copy.deepcopy(model).requires_grad_(True)
    model.requires_grad_(laid_out == "in training")
    model.new_cache(1, TOKENS)
    model.requires_grad_(True)
    for one in (model, twin):
        optimizer = make_optimizer(one, OptimizerConfig(learning_rate=0.01))
        for _ in range(2):
            optimizer.zero_grad()
            one(x).square().mean().backward()
            optimizer.step()
    assert all(torch.allclose(value, twin.state_dict()[name], atol=1e-12) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(_stepwise(model, x), model(x), atol=1e-12)


def test_a_model_that_moved_to_another_type_is_laid_out_anew(model):
    model.new_cache(1, TOKENS)
    model.float()
    x = _x(torch.float32)
    with torch.no_grad():
        assert torch.allclose(_stepwise(model, x), model(x), atol=1e-4)


def test_a_step_has_no_gradients(model):
    assert not model.step(_x()[:, :1].requires_grad_(), model.new_cache(2, TOKENS)).requires_grad


@pytest.mark.parametrize("frozen", [True, False])
def test_a_further_cache_leaves_the_memory_where_it_is(model, frozen):
    """Kernels that were recorded know it by its address."""
    model.requires_grad_(not frozen)

    def addresses():
        model.new_cache(1, TOKENS)
        return [tensor.data_ptr() for b in model._frame_blocks for tensor in (b.scales, *(each.weights for each in b.weights()))]

    before, x = addresses(), _x()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
        assert addresses() == before
        assert torch.allclose(_stepwise(model, x), model(x), atol=1e-12)
