"""What the loop, the checkpoints and the exports rely on, for every kind of the table."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lorasmith.adapters import ADAPTERS, DROP_RANKS, LIMITED_NORMS
from lorasmith.adapters.base import LayerSettings, by_layer
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.targets import TargetModule
from tests.adapters.making import attached, padding_of

# Text encoder first, and mixed: the buffer must not depend on how the targets were sorted within a component.
LAYERS = {
    "text_encoder.one": ("text_encoder", lambda: nn.Linear(8, 8)),
    "denoiser.one": ("denoiser", lambda: nn.Linear(8, 24)),
    "denoiser.two": ("denoiser", lambda: nn.Conv2d(24, 8, 1)),
    "text_encoder.two": ("text_encoder", lambda: nn.Linear(8, 8)),
}


class Chain(nn.Module):
    """text_encoder.one, .two, then denoiser.one as a linear layer and .two as a convolution of pixels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        for name, (_, make) in LAYERS.items():
            layer = make().requires_grad_(False)
            for parameter in layer.parameters():
                parameter.normal_(0, 0.3, generator=generator)
            self.add_module(name.replace(".", "_"), layer)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.denoiser_one(self.text_encoder_two(self.text_encoder_one(x)))
        y: Tensor = self.denoiser_two(rows.transpose(1, 2).unflatten(2, (2, 3)))
        return y


@pytest.fixture(params=ADAPTERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(kind: str, *, seed: int = 1, **dropouts: float) -> tuple[Chain, FlatAdapter]:
    chain = Chain()
    targets = [TargetModule(name, component, chain, name.replace(".", "_")) for name, (component, _) in LAYERS.items()]
    return chain, attached(targets, kind=kind, rank=4, alpha=2.0, seed=seed, **dropouts)


def moved(adapter: FlatAdapter, seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for view in (view for group in adapter.groups() for view in adapter.parameters(group)):
            view.normal_(0, 0.1, generator=generator)


def inputs() -> Tensor:
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(3))


def test_the_start_changes_nothing_and_depends_on_the_seed(kind: str) -> None:
    chain, adapter = make(kind)
    assert torch.equal(chain(inputs()), Chain()(inputs()))
    assert torch.equal(make(kind)[1].flat, adapter.flat)
    assert not torch.equal(make(kind, seed=2)[1].flat, adapter.flat)


def test_one_flat_buffer_ordered_by_group(kind: str) -> None:
    _, adapter = make(kind)
    assert adapter.flat.dtype == torch.float32 and adapter.flat.ndim == 1
    assert adapter.gradient().shape == adapter.flat.shape and adapter.gradient().dtype == torch.float32
    parts = adapter.groups()
    assert list(parts) == ["text_encoder", "denoiser"]
    assert parts["text_encoder"].start == 0 and parts["denoiser"].stop == adapter.flat.numel()
    assert parts["text_encoder"].stop == parts["denoiser"].start
    moved(adapter)
    for group, part in parts.items():
        views = adapter.parameters(group)
        padding_of(views, adapter.flat[part])
        grads = [view.grad for view in views if view.grad is not None]
        assert len(grads) == len(views)
        assert grads[0].untyped_storage().data_ptr() == adapter.gradient().untyped_storage().data_ptr()


def test_backward_adds_to_the_gradient_buffer_and_clearing_keeps_the_views(kind: str) -> None:
    chain, adapter = make(kind)
    moved(adapter)
    buffer = adapter.gradient()
    chain(inputs()).square().mean().backward()
    once = buffer.clone()
    assert once.abs().max() > 0
    adapter.clear_gradient()
    assert not buffer.any()
    for _ in range(2):
        chain(inputs()).square().mean().backward()
    assert adapter.gradient() is buffer and torch.equal(buffer, 2 * once)


def test_the_gradient_points_downhill(kind: str) -> None:
    chain, adapter = make(kind)
    moved(adapter)

    def loss() -> Tensor:
        result: Tensor = chain(inputs()).square().mean()
        return result

    loss().backward()
    before, step = loss().item(), adapter.gradient() * (1e-3 / adapter.gradient().norm())
    with torch.no_grad():
        adapter.flat.sub_(step)
        after = loss().item()
    assert before - after == pytest.approx(1e-3 * adapter.gradient().norm().item(), rel=0.05)


def test_tensors_are_copies_that_load_back_to_the_bit(kind: str) -> None:
    chain, adapter = make(kind)
    moved(adapter)
    y, saved, flat = chain(inputs()), adapter.tensors(), adapter.flat.clone()
    assert all(name.startswith(tuple(f"{layer}." for layer in LAYERS)) for name in saved)
    assert all(one.dtype == torch.float32 and one.device.type == "cpu" for one in saved.values())
    views = [view for group in adapter.groups() for view in adapter.parameters(group)]
    assert sum(one.numel() for one in saved.values()) == sum(view.numel() for view in views)
    moved(adapter, seed=6)
    assert not torch.equal(chain(inputs()), y)
    adapter.load_tensors(saved)
    assert torch.equal(adapter.flat, flat) and torch.equal(chain(inputs()), y)
    other_chain, other = make(kind, seed=9)
    other.load_tensors(dict(reversed(saved.items())))
    assert torch.equal(other.flat, flat) and torch.equal(other_chain(inputs()), y)


def test_foreign_tensors_are_refused(kind: str) -> None:
    _, adapter = make(kind)
    saved = adapter.tensors()
    name = next(iter(saved))
    before = adapter.flat.clone()
    for wrong in (
        {key: one for key, one in saved.items() if key != name},
        {**saved, "denoiser.three.weight": torch.zeros(1)},
        {**saved, name: torch.zeros(3, 3)},
    ):
        with pytest.raises(AssertionError):
            adapter.load_tensors(wrong)
    assert torch.equal(adapter.flat, before)


def test_the_multiplier_scales_the_whole_change(kind: str) -> None:
    chain, adapter = make(kind)
    moved(adapter)
    changed = chain(inputs())
    adapter.set_multiplier(0)
    assert torch.equal(chain(inputs()), Chain()(inputs()))
    adapter.set_multiplier(1)
    assert torch.equal(chain(inputs()), changed) and not torch.equal(changed, Chain()(inputs()))


@pytest.mark.parametrize("dropout", ["dropout", "rank_dropout", "module_dropout"])
def test_dropout_is_seeded_by_torch_and_off_outside_training(kind: str, dropout: str) -> None:
    if dropout == "rank_dropout" and kind not in DROP_RANKS:
        return  # refused before a start
    chain, adapter = make(kind, **{dropout: 0.5})
    moved(adapter)
    adapter.set_training(False)
    calm = chain(inputs())
    assert torch.equal(chain(inputs()), calm)
    adapter.set_training(True)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(chain(inputs()))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], calm)


@pytest.mark.parametrize("kind", sorted(DROP_RANKS), indirect=True)
@pytest.mark.parametrize("base", [nn.Linear(8, 24), nn.Conv2d(8, 24, 3, padding=1), nn.Conv2d(8, 24, 1)], ids=str)
def test_ranks_that_are_left_out_are_made_up_for_by_the_others(kind: str, base: nn.Module) -> None:
    """The mean over many choices is the whole change."""
    model = nn.Sequential(base.requires_grad_(False))
    adapter = attached([TargetModule("denoiser.0", "denoiser", model, "0")], kind=kind, rank=4, rank_dropout=0.25)
    moved(adapter)
    x = torch.randn((1, 8, 2, 2) if isinstance(base, nn.Conv2d) else (1, 6, 8), generator=torch.Generator())
    whole = (model(x) - base(x)).detach()
    adapter.set_training(True)
    torch.manual_seed(1)
    with torch.no_grad():
        changes = torch.cat([model(x) - base(x) for _ in range(2000)])
    spread = changes.std(0).norm()
    assert spread > 1e-3 and (changes.mean(0) - whole[0]).norm() < 0.1 * spread


def test_a_layer_without_its_change_for_a_step(kind: str) -> None:
    """The others are not enlarged, and where no layer has a change there is still a gradient: zero."""
    chain, adapter = make(kind, module_dropout=0.999)
    moved(adapter)
    adapter.set_training(True)
    torch.manual_seed(1)
    y = chain(inputs())
    y.square().sum().backward()
    assert torch.equal(y, Chain()(inputs())) and not adapter.gradient().any()
    chain, adapter = make(kind, module_dropout=0.001)
    moved(adapter)
    whole = chain(inputs())
    adapter.set_training(True)
    torch.testing.assert_close(chain(inputs()), whole)


def test_nothing_else_learns(kind: str) -> None:
    chain, adapter = make(kind)
    mine = {id(one) for group in adapter.groups() for one in adapter.parameters(group)}
    learning = {id(one) for one in chain.parameters() if one.requires_grad}
    assert learning == mine


def test_names_and_shapes_are_those_that_the_kind_gives(kind: str) -> None:
    _, adapter = make(kind)
    assert adapter.kind.name == kind
    layers = by_layer(adapter.tensors(), adapter.kind)
    assert layers.keys() == adapter.layers.keys() == LAYERS.keys()
    for name, (spec, settings) in adapter.layers.items():
        shapes = {suffix: tuple(tensor.shape) for suffix, tensor in layers[name].items()}
        assert shapes == adapter.kind.shapes(spec, settings)
        assert set(shapes) <= set(adapter.kind.suffixes)
        layer, rank = adapter.kind.layer_of(shapes, spec.kernel)
        assert layer == spec and adapter.kind.shapes(layer, LayerSettings(rank, rank)) == shapes
    with pytest.raises(KeyError):
        by_layer({"denoiser.one.weight": torch.zeros(1)}, adapter.kind)


def test_delta_is_the_change_of_the_weight_and_is_scaled(kind: str) -> None:
    """Readers of a file get the same change from its alpha."""
    chain, adapter = make(kind)
    moved(adapter)
    layers = by_layer(adapter.tensors(), adapter.kind)
    plain, y = Chain(), chain(inputs())
    for name, (spec, settings) in adapter.layers.items():
        layer = plain.get_submodule(name.replace(".", "_"))
        weight = layer.get_parameter("weight")
        delta = adapter.kind.delta(weight, layers[name], settings)
        assert delta.shape == weight.shape
        shapes = adapter.kind.shapes(spec, settings)
        alpha = adapter.kind.file_alpha(shapes, settings)
        read = adapter.kind.scaled(layers[name], adapter.kind.file_scale(shapes, alpha))
        of_scale_1 = LayerSettings(settings.rank, settings.rank)
        torch.testing.assert_close(adapter.kind.delta(weight, read, of_scale_1), delta)
        assert adapter.kind.file_scale(shapes, None) == 1
        third = replace(settings, alpha=settings.alpha / 3)
        factor = adapter.kind.file_scale(shapes, alpha) / adapter.kind.file_scale(shapes, alpha / 3)
        torch.testing.assert_close(adapter.kind.delta(weight, adapter.kind.scaled(layers[name], factor), third), delta)
        weight.add_(delta)
    torch.testing.assert_close(plain(inputs()), y)


def norms_of(adapter: FlatAdapter) -> list[float]:
    """The norms of the changes, by their formula in full."""
    norms = []
    for name, tensors in by_layer(adapter.tensors(), adapter.kind).items():
        weight = Chain().get_parameter(f"{name.replace('.', '_')}.weight")
        norms.append(float(adapter.kind.delta(weight, tensors, adapter.layers[name].settings).norm()))
    return norms


@pytest.mark.parametrize("kind", sorted(LIMITED_NORMS))
def test_norms_are_limited_by_equal_factors(kind: str) -> None:
    _, adapter = make(kind)
    adapter.limit_norms(1.0)
    assert torch.equal(adapter.flat, make(kind)[1].flat)  # a change of zero stays
    moved(adapter)
    before, norms = adapter.tensors(), norms_of(adapter)
    most = sorted(norms)[1] * 1.001
    adapter.limit_norms(most)
    assert norms_of(adapter) == pytest.approx([min(norm, most) for norm in norms], rel=1e-5)
    after = by_layer(adapter.tensors(), adapter.kind)
    for (name, tensors), norm in zip(by_layer(before, adapter.kind).items(), norms, strict=True):
        factors = [float(after[name][suffix].norm() / tensor.norm()) for suffix, tensor in tensors.items()]
        assert factors == pytest.approx([min(1, most / norm) ** (1 / len(tensors))] * len(tensors), rel=1e-5)
        is_kept = all(torch.equal(after[name][suffix], tensor) for suffix, tensor in tensors.items())
        assert is_kept == (norm < most)
