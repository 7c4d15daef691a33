"""GigaGAN's networks: shapes of every public boundary, both forms of the adaptive convolution, attention, and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_dist.nets.gigagan import distance
from gen_dist.nets.gigagan.adaptive import AdaptiveConv2d, grouped, prefers_shared, shared
from gen_dist.nets.gigagan.attention import CrossAttention, SelfAttention
from gen_dist.nets.gigagan.discriminator import Discriminator, judgements, spread
from gen_dist.nets.gigagan.layers import EqualConv2d, EqualLinear, leaky, rounded
from gen_dist.nets.gigagan.mapping import MappingNetwork
from gen_dist.nets.gigagan.pyramid import pyramid, sides
from gen_dist.nets.gigagan.sizes import SIZES
from gen_dist.nets.gigagan.synthesis import Synthesis
from gen_dist.nets.gigagan.text import SmallTextNetwork, TextNetwork, with_end
from gen_dist.nets.text import HashedWords
from gen_dist.recipes.gigagan_settings import LARGEST_PX

NANO = replace(SIZES["nano"], activate=leaky)
PAPER_PARAMETERS = {"generator": 652.5e6, "discriminator": 381.4e6}
CLIP_WIDTH = 768


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def conv_arguments(dtype: torch.dtype, *, num_kernels: int, side_px: int = 3) -> tuple[Tensor, ...]:
    x, kernels = torch.randn(4, 6, 8, 8, dtype=dtype), torch.randn(5, num_kernels, 6, side_px, side_px, dtype=dtype)
    return x, kernels, torch.randn(4, num_kernels, dtype=dtype).softmax(1), torch.randn(4, 6, dtype=dtype)


def adaptive_by_hand(x: Tensor, kernels: Tensor, share: Tensor, scale: Tensor) -> Tensor:
    """Equations 1 and 2 image by image."""
    drawn = []
    for image, a, s in zip(x, share, scale, strict=True):
        mixed = sum(one * kernels[:, n] for n, one in enumerate(a)) * s[None, :, None, None]
        mixed = mixed / mixed.square().sum(dim=(1, 2, 3), keepdim=True).add(1e-8).sqrt()
        drawn.append(F.conv2d(image[None], mixed, padding=kernels.shape[-1] // 2)[0])
    return torch.stack(drawn)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str)
@pytest.mark.parametrize("num_kernels", [1, 2, 8])
def test_both_forms_of_the_adaptive_convolution_are_the_papers(
    dtype: torch.dtype, tolerance: float, num_kernels: int
) -> None:
    arguments = [value.requires_grad_() for value in conv_arguments(dtype, num_kernels=num_kernels)]
    wanted = adaptive_by_hand(*arguments)
    weight = torch.randn_like(wanted)
    learned = [value for value in arguments if value.shape != (4, 1)]  # the share of a single kernel is 1
    slopes = torch.autograd.grad((weight * wanted).sum(), learned)
    for form in (shared, grouped):
        found = form(*arguments)
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
        for slope, right in zip(torch.autograd.grad((weight * found).sum(), learned), slopes, strict=True):
            off = (slope - right).norm() / right.norm().clamp(min=1.0)
            assert off <= tolerance, f"{form.__name__}: a gradient is off by {off:.1e}"


@pytest.mark.parametrize("form", [shared, grouped])
def test_both_forms_differentiate_twice(form: object) -> None:
    arguments = [value.requires_grad_() for value in conv_arguments(torch.float64, num_kernels=2)]
    assert torch.autograd.gradgradcheck(form, arguments, atol=1e-6, fast_mode=True)


def test_modulation_without_demodulation_scales_the_input_alone() -> None:
    x, kernels, share, scale = conv_arguments(torch.float64, num_kernels=1, side_px=1)
    wanted = F.conv2d(x * scale[:, :, None, None], kernels[:, 0])
    for form in (shared, grouped):
        torch.testing.assert_close(form(x, kernels, share, scale, demodulate=False), wanted)


@pytest.mark.parametrize(
    ("num_kernels", "side_px", "wanted"), [(1, 4, True), (1, 64, True), (2, 8, True), (2, 16, False), (8, 64, False)]
)
def test_the_form_is_chosen_by_shape(num_kernels: int, side_px: int, wanted: bool) -> None:
    assert prefers_shared((16, 64, side_px, side_px), (64, num_kernels, 64, 3, 3)) == wanted


@pytest.mark.parametrize("num_kernels", [1, 4])
def test_an_adaptive_convolution_keeps_unit_size(num_kernels: int) -> None:
    conv = AdaptiveConv2d(64, 64, style_width=32, num_kernels=num_kernels)
    y = conv(torch.randn(8, 64, 16, 16), torch.randn(8, 32))
    assert y.shape == (8, 64, 16, 16)
    assert float(y.std()) == pytest.approx(1.0, abs=0.15)


def test_equalised_layers_keep_unit_size_and_start_with_unit_weights() -> None:
    linear, conv = EqualLinear(256, 128, rate=0.01), EqualConv2d(64, 32, 3, padding=1)
    assert float(linear(torch.randn(64, 256)).std()) == pytest.approx(1.0, abs=0.1)
    assert float(linear.weight.std()) == pytest.approx(100.0, rel=0.1)
    assert float(conv(torch.randn(4, 64, 16, 16)).std()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("attend", [distance.fused, distance.written_out, distance.differentiable_twice])
def test_attention_by_distance_is_a_softmax_of_squared_distances(
    attend: Callable[..., Tensor], multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(distance.MULTIPLES, "cpu", multiple)  # as a GPU wants them
    query, key, value = (torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for n in (5, 6, 6))
    squared = (query[:, :, :, None] - key[:, :, None]).square().sum(-1)
    wanted = (-squared / math.sqrt(8 * 8)).softmax(-1) @ value
    found = attend(query, key, value)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad((weight * found).sum(), (query, key, value)),
        torch.autograd.grad((weight * wanted).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_its_slopes_have_the_slopes_of_the_form_that_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "LOGITS", 2 * 3 * 5 * 6)  # two images at a time, and one
    inputs = [torch.randn(3, 3, n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 6, 6)]
    assert torch.autograd.gradcheck(distance.differentiable_twice, inputs)
    assert torch.autograd.gradgradcheck(distance.differentiable_twice, inputs)
    both = [attend(*inputs) for attend in (distance.differentiable_twice, distance.written_out)]
    slopes = [torch.autograd.grad(mixed.sin().sum(), inputs, create_graph=True) for mixed in both]
    of_slopes = [torch.autograd.grad(sum(slope.square().sum() for slope in each), inputs) for each in slopes]
    for one, other in zip(*of_slopes, strict=True):
        torch.testing.assert_close(one, other)


def test_attention_keeps_no_logits_for_its_slopes() -> None:
    inputs = [torch.randn(1, 1, 512, 4, requires_grad=True) for _ in range(3)]
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mixed = distance.differentiable_twice(*inputs)
        torch.autograd.grad(mixed.sum(), inputs, create_graph=True)
    assert max(kept) <= 512 * 5


def test_logits_of_attention_start_at_unit_variance() -> None:
    q = torch.randn(1000, 64)
    logits = -(q[:500] - q[500:]).square().sum(1) / math.sqrt(8 * 64)
    assert float(logits.std()) == pytest.approx(1.0, abs=0.1)


def test_self_attention_reads_its_style_and_equal_positions_have_finite_slopes() -> None:
    layer = SelfAttention(16, num_heads=2, style_width=8, twice_differentiable=True)
    x = torch.ones(2, 16, 4, 4, requires_grad=True)  # all distances are 0: a root of them would have no slope
    one, other = layer(x, torch.zeros(2, 8)), layer(x, torch.randn(2, 8))
    assert one.shape == x.shape
    assert (one - other).abs().max() > 1e-3
    (slope,) = torch.autograd.grad(other.square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert slope.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_cross_attention_does_not_see_what_is_masked() -> None:
    layer = CrossAttention(16, num_heads=2, text_width=8)
    x, words = torch.randn(2, 16, 4, 4), torch.randn(2, 5, 8)
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])
    other = words.clone()
    other[0, 2:] = 100.0
    torch.testing.assert_close(layer(x, words, mask), layer(x, other, mask))
    assert (layer(x, words, mask)[0] - layer(x, words, torch.ones_like(mask))[0]).abs().max() > 1e-3


def test_text_networks_read_to_the_end_of_a_caption_and_not_beyond() -> None:
    net = TextNetwork(12, 16, depth=1, num_heads=2)
    given = torch.randn(3, 6, 12)
    given[0, 4:], given[1] = 0.0, 0.0  # padding; a caption that could not be read
    words, mask, caption = net(given)
    assert words.shape == (3, 6, 16)
    assert mask.sum(1).tolist() == [4, 1, 6]
    torch.testing.assert_close(caption, torch.stack([words[0, 3], words[1, 0], words[2, 5]]))
    assert (words[0, 4:] == 0).all()
    shorter = net(given[:1, :4])
    torch.testing.assert_close(shorter[2], caption[:1])


def test_captions_of_a_trained_table_end_behind_their_last_word() -> None:
    tokens = with_end(HashedWords(num_buckets=64, length=3)(["red", "", "a red heart shape"]))
    assert (tokens != 0).sum(1).tolist() == [2, 2, 4]
    net = SmallTextNetwork(16, num_buckets=64, length=4, depth=1, num_heads=2)
    words, mask, caption = net(tokens)
    assert words.shape == (3, 4, 16)
    assert caption.shape == (3, 16)
    assert (caption[0] - caption[1]).abs().max() > 0.1
    assert mask.sum(1).tolist() == [2, 2, 4]


def drawn(image_px: int, *, checkpoint: bool = False) -> tuple[nn.Module, list[Tensor]]:
    net = Synthesis(NANO, image_px=image_px, checkpoint_levels=checkpoint)
    style = MappingNetwork(NANO)(torch.randn(4, NANO.latent_width), torch.randn(4, NANO.text_width))
    return net, net(style, torch.randn(4, 5, NANO.text_width), torch.ones(4, 5, dtype=torch.bool))


@pytest.mark.parametrize("image_px", [8, 32, 64])
def test_the_generator_draws_every_resolution_and_the_discriminator_judges_all(image_px: int) -> None:
    _, images = drawn(image_px)
    assert [tuple(image.shape) for image in images] == [(4, 3, side, side) for side in sides(image_px)]
    assert all(0.2 < float(image.std()) < 2.0 for image in images)
    net = Discriminator(NANO, image_px=image_px)
    num_levels = len(sides(image_px))
    logits = net(images, torch.randn(4, 2, NANO.text_width))
    assert logits.shape == (4, 2, num_levels * (num_levels + 1) // 2)
    assert len(judgements(64)) == 15


def test_a_judgement_depends_on_the_image_that_entered_at_its_level_alone() -> None:
    net, caption = Discriminator(NANO, image_px=16), torch.randn(4, 1, NANO.text_width)
    leaves = [torch.randn(4, 3, side, side, requires_grad=True) for side in sides(16)]
    logits = net(leaves, caption)
    for number, (level, _) in enumerate(judgements(16)):
        slopes = torch.autograd.grad(logits[0, 0, number], leaves, retain_graph=True, allow_unused=True)
        reached = [slope is not None and bool(slope.abs().max() > 0) for slope in slopes]
        assert reached == [other == level for other in range(len(leaves))]


def test_the_discriminator_reads_the_caption_and_its_features_once_for_several() -> None:
    net, images = Discriminator(NANO, image_px=16), pyramid(torch.randn(4, 3, 16, 16))
    captions = torch.randn(4, 2, NANO.text_width)
    both = net(images, captions)
    torch.testing.assert_close(both[:, :1], net(images, captions[:, :1]))
    torch.testing.assert_close(both[:, 1:], net(images, captions[:, 1:]))
    assert (both[:, 0] - both[:, 1]).abs().min() > 1e-5


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_penalty_reaches_every_weight(checkpoint: bool) -> None:
    net = Discriminator(NANO, image_px=16, checkpoint_stages=checkpoint)
    leaves = [torch.randn(4, 3, side, side, requires_grad=True) for side in sides(16)]
    slopes = torch.autograd.grad(net(leaves, torch.randn(4, 1, NANO.text_width)).sum(), leaves, create_graph=True)
    sum(slope.square().sum() for slope in slopes).backward()
    # a bias moves no slope of what is linear in pieces
    weights = {name: value.grad for name, value in net.named_parameters() if "bias" not in name}
    assert not [name for name, slope in weights.items() if slope is None or not slope.abs().max() > 0]


def test_activations_computed_again_give_the_same_gradients() -> None:
    def gradients(checkpoint: bool) -> list[Tensor]:
        torch.manual_seed(1)
        net, images = drawn(16, checkpoint=checkpoint)
        judge = Discriminator(NANO, image_px=16, checkpoint_stages=checkpoint)
        judge(images, torch.randn(4, 1, NANO.text_width)).sum().backward()
        return [value.grad for part in (net, judge) for value in part.parameters()]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(one, other)


def test_a_round_corner_is_the_sharp_one_from_afar() -> None:
    far, near = torch.tensor([-9.0, 9.0]), torch.linspace(-1, 1, 101, requires_grad=True)
    assert (rounded(far) - leaky(far)).abs().max() < 0.2
    (slope,) = torch.autograd.grad(rounded(near).sum(), near)
    assert slope.diff().abs().max() < 0.1


def test_neighbours_that_are_alike_have_no_spread() -> None:
    alike = torch.randn(1, 6, 4, 4).expand(4, -1, -1, -1)
    x = torch.cat([alike, torch.randn(4, 6, 4, 4)])
    assert spread(x, 4)[:4].max() < 1e-3
    assert spread(x, 4)[4:].min() > 0.1


def test_the_pyramid_is_the_mean_of_the_pixels() -> None:
    levels = pyramid(torch.randn(2, 3, 16, 16))
    assert [level.shape[-1] for level in levels] == [16, 8, 4]
    torch.testing.assert_close(levels[2][0, 0, 0, 0], levels[0][0, 0, :4, :4].mean())


def test_base_64_has_the_papers_number_of_parameters() -> None:
    size = SIZES["base-64"]
    with torch.device("meta"):
        text = TextNetwork(CLIP_WIDTH, size.text_width, depth=size.text_layers, num_heads=size.heads)
        mapping = MappingNetwork(size)
        players = {
            "generator": (text, mapping, Synthesis(size, image_px=64)),
            "discriminator": (text, Discriminator(size, image_px=64)),
        }
    for player, nets in players.items():
        number = sum(value.numel() for net in nets for value in net.parameters())
        assert number == pytest.approx(PAPER_PARAMETERS[player], rel=0.02), player


@pytest.mark.parametrize("name", SIZES)
def test_every_size_has_channels_that_its_heads_divide(name: str) -> None:
    size = SIZES[name]
    for side_px in sides(64):
        if size.attention.get(side_px):
            assert size.generator_channels(side_px) % size.heads == 0
        if size.discriminator_attention.get(side_px):
            assert size.discriminator_channels(side_px) % size.heads == 0
    assert size.text_width % size.heads == 0
    channels = [
        [player(side_px) for player in (size.generator_channels, size.discriminator_channels)]
        for side_px in (LARGEST_PX[name], 2 * LARGEST_PX[name])
    ]
    assert min(channels[0]) == 1
    assert min(channels[1]) == 0
    assert LARGEST_PX.keys() == SIZES.keys()
