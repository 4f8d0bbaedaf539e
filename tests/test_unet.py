"""The U-Net: its size, its time embedding, its shapes, and that every parameter takes part."""

import cmath

import pytest
import torch

from ddpm_edu.unet import Downsample, UNet, group_norm, time_embedding

SMALL = dict(size=8, channels=1, base=16, multipliers=(1, 2), blocks=1, attention=(4,))


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """The network with every parameter away from its initial zero, as it is after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return network


def test_the_papers_cifar10_network_has_35_7_million_parameters():
    with torch.device("meta"):
        network = UNet()
    assert sum(p.numel() for p in network.parameters()) == 35_746_307
    # Appendix B: attention only at 16×16, two blocks on the way down, three on the way up, and one in the middle.
    attention = [name for name, m in network.named_modules() if type(m).__name__ == "Attention"]
    assert len(attention) == 2 + 1 + 3


def test_time_embedding_is_the_unit_circle_at_geometric_speeds():
    t, dim = torch.tensor([1, 7, 250, 1000]), 32
    got = time_embedding(t, dim)
    ratio = 10000 ** (-1 / (dim // 2 - 1))  # each wave is slower than the one before by the same factor
    for row, step in zip(got, t.tolist()):
        speed = 1.0
        for i in range(dim // 2):
            point = cmath.exp(1j * step * speed)
            assert row[i].item() == pytest.approx(point.imag, abs=2e-4)
            assert row[i + dim // 2].item() == pytest.approx(point.real, abs=2e-4)
            speed *= ratio
    assert speed / ratio == pytest.approx(1e-4)


def test_time_embedding_tells_all_steps_apart():
    rows = time_embedding(torch.arange(1, 1001), 32)
    gaps = torch.cdist(rows, rows) + torch.eye(1000) * 9
    assert gaps.min() > 0.1


@pytest.mark.parametrize("dim", [3, 33, 2])
def test_time_embedding_refuses(dim):
    with pytest.raises(ValueError, match=f"dim = {dim}"):
        time_embedding(torch.tensor([1]), dim)


def test_groups_are_never_single_channels():
    assert group_norm(128).num_groups == 32
    for channels in range(4, 200):
        norm = group_norm(channels)
        assert channels % norm.num_groups == 0 and channels // norm.num_groups >= min(4, channels)


def test_starts_at_zero_and_keeps_the_shape():
    x_t = torch.randn(3, 1, 8, 8)
    out = UNet(**SMALL)(x_t, torch.tensor([1, 5, 10]))
    assert out.shape == x_t.shape
    assert torch.equal(out, torch.zeros_like(x_t))


DEEP = {"multipliers": (1, 2, 2), "blocks": 2, "attention": (8, 2)}


@pytest.mark.parametrize("changes", [{}, {"heads": 2}, {"attention": ()}, DEEP])
def test_every_parameter_learns(changes):
    network = awake(UNet(**{**SMALL, **changes})).double()
    x_t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    (network(x_t, torch.tensor([1, 3, 500, 1000])) ** 3).mean().backward()
    for name, p in network.named_parameters():
        grad = p.grad.flatten()
        if name.endswith("qkv.bias"):
            # Adding the same vector to every key shifts all of softmax's arguments alike: the keys' bias has no effect.
            query, key, value = grad.chunk(3)
            assert key.abs().max() < 1e-12 * max(1, value.abs().max())
            grad = torch.cat([query, value])
        assert (grad != 0).all(), f"{name}: {int((grad == 0).sum())} of {grad.numel()} entries have no gradient"


def test_depends_on_t_and_on_each_image_alone():
    network = awake(UNet(**SMALL)).double().eval()
    x_t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    both = network(x_t, torch.tensor([2, 9]))
    assert torch.allclose(both[:1], network(x_t[:1], torch.tensor([2])), atol=1e-10)
    assert (network(x_t, torch.tensor([9, 9]))[0] - both[0]).abs().max() > 1e-3


def test_attention_reaches_every_pixel():
    """Convolutions of three pixels reach only so far; with attention every output sees every input."""
    plain = dict(size=16, channels=1, base=8, multipliers=(1,), blocks=1)

    def reach(network):
        x_t = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(4)).double().requires_grad_()
        # Freeze the norms' statistics, through which everything sees everything.
        for m in network.modules():
            if isinstance(m, torch.nn.GroupNorm):
                m.forward = lambda x: x
        network.double()(x_t, torch.tensor([5]))[0, 0, 0, 0].backward()
        return (x_t.grad != 0).double().mean().item()

    assert reach(awake(UNet(**plain, attention=(16,)))) == 1.0
    local = UNet(**plain, attention=())
    local.middle[0].attention = torch.nn.Identity()
    assert reach(awake(local)) < 1.0


def test_downsample_pads_right_and_below():
    layer = Downsample(1)
    torch.nn.init.ones_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    got = layer(x, None)[0, 0]
    want = torch.stack([torch.stack([x[0, 0, i : i + 3, j : j + 3].sum() for j in (0, 2)]) for i in (0, 2)])
    assert torch.equal(got, want)


def test_dropout_only_while_training():
    network = awake(UNet(**SMALL, dropout=0.5))
    x_t, t = torch.randn(1, 1, 8, 8), torch.tensor([5])
    assert not torch.equal(network.train()(x_t, t), network(x_t, t))
    assert torch.equal(network.eval()(x_t, t), network(x_t, t))


def test_bfloat16_autocast_stays_close():
    network = awake(UNet(**SMALL)).eval()
    x_t, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor([5, 900])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = network(x_t, t)
    exact = network(x_t, t)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(size=10, multipliers=(1, 1, 1)), "size = 10 cannot be halved 2"),
        (dict(attention=(16,)), r"attention = \[16\]"),
        (dict(multipliers=()), "multipliers"),
        (dict(dropout=1.0), "dropout = 1.0"),
        (dict(base=18, heads=4), "heads = 4"),
        (dict(blocks=0), "blocks = 0"),
    ],
)
def test_refuses_impossible_networks(changes, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{**SMALL, **changes})


def test_refuses_other_images():
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\).*\(B, 1, 8, 8\)"):
        UNet(**SMALL)(torch.zeros(2, 3, 8, 8), torch.tensor([1, 1]))


# Options ----------------------------------------------------------------------------------------------------------

X_T = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(6)).double()
T = torch.tensor([1, 40, 1000])
ALL = dict(classes=4, learned_variance=True, head_channels=8, groups=4, norm_eps=1e-5, shift=0, scale_shift=True, pad_all=True)


def test_options_leave_the_paper_network_as_it_was():
    """A shipped checkpoint depends on the names, the draws and the numbers."""
    torch.manual_seed(0)
    network = awake(UNet(**SMALL)).double()
    names = [name for name, _ in network.named_parameters()]
    assert names[0] == "time.0.weight" and names[4:6] == ["first.weight", "first.bias"] and names[-1] == "last.2.bias"
    torch.manual_seed(0)
    with_classes = UNet(**SMALL, classes=3)
    plain = dict(awake(with_classes).double().named_parameters())
    assert set(plain) - set(names) == {"classes.weight"}
    assert all(torch.equal(p, plain[name]) for name, p in network.named_parameters())


def test_classes_add_a_vector_and_the_last_means_not_told():
    network = awake(UNet(**SMALL, classes=4)).double()
    y = torch.tensor([0, 3, 1])
    told = network(X_T, T, y)
    assert torch.equal(network(X_T, T), network(X_T, T, torch.full_like(y, 4)))
    assert (told - network(X_T, T)).abs().max() > 1e-3
    # What a class does is done by its row alone: two classes with one row are one class.
    with torch.no_grad():
        network.classes.weight[2] = network.classes.weight[3]
    assert torch.equal(network(X_T, T, torch.tensor([0, 2, 1])), told)
    with pytest.raises(ValueError, match="y was given to a network without classes"):
        UNet(**SMALL)(X_T.float(), T, y)
    for wrong, error, message in (
        (torch.tensor([0, 5, 1]), ValueError, r"y = values from 0 to 5 is outside 0\.\.4"),
        (torch.tensor([-1, 0, 1]), ValueError, r"y = values from -1 to 1 is outside 0\.\.4"),
        (torch.tensor([0.0, 1.0, 2.0]), TypeError, r"y must hold integers 0\.\.4, got a tensor of dtype torch\.float32"),
    ):
        with pytest.raises(error, match=message):
            network(X_T, T, wrong)


def test_learned_variance_doubles_the_channels_and_starts_at_zero():
    network = UNet(**SMALL, learned_variance=True).double()
    out = network(X_T, T)
    assert out.shape == (3, 2, 8, 8) and torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3}, ALL])
def test_checkpointing_changes_neither_output_nor_gradient(changes):
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(3)  # the same network twice, and dropout draws the same
        network = awake(UNet(**{**SMALL, **changes}, checkpointing=checkpointing)).double().train()
        out = network(X_T, T)
        (out**3).sum().backward()
        results.append([out, *(p.grad for p in network.parameters())])
    for plain, frugal in zip(*results):
        assert torch.equal(plain, frugal)


def test_checkpointing_computes_the_blocks_again_instead_of_keeping_them():
    def calls(checkpointing):
        network, seen = awake(UNet(**SMALL, checkpointing=checkpointing)).double(), []
        for block in (*network.down, *network.middle, *network.up):
            block.register_forward_pre_hook(lambda module, inputs: seen.append(module))
        out = network(X_T, T).sum()
        once = len(seen)
        out.backward()
        return once, len(seen)

    blocks = 3 + 2 + 5
    assert calls(False) == (blocks, blocks) and calls(True) == (blocks, 2 * blocks)
    with torch.no_grad():
        assert not UNet(**SMALL, checkpointing=True)(X_T.float(), T).requires_grad


def test_every_parameter_of_every_option_learns():
    network = awake(UNet(**{**SMALL, **ALL})).double()
    (network(X_T, T, torch.tensor([0, 1, 4])) ** 3).mean().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name
    assert (network.classes.weight.grad.abs().sum(1) > 0).tolist() == [True, True, False, False, True]


def test_scale_and_shift_act_after_the_norm():
    network = awake(UNet(**SMALL, scale_shift=True)).double()
    block = network.middle[0].res
    x, time = torch.randn(2, 32, 4, 4).double(), torch.randn(2, 64).double()
    scale, shift = (time @ block.time.weight.T + block.time.bias).chunk(2, dim=1)
    h = block.norm2(block.conv1(torch.nn.functional.silu(block.norm1(x))))
    h = torch.stack([h[:, k] * (1 + scale[:, k, None, None]) + shift[:, k, None, None] for k in range(32)], 1)
    assert torch.allclose(block(x, time), x + block.conv2(h * torch.sigmoid(h)), atol=1e-12)


def test_downsample_can_pad_all_around():
    layer = Downsample(1, pad_all=True).double()
    x = torch.arange(16.0).double().reshape(1, 1, 4, 4)
    want = torch.nn.functional.conv2d(x, layer.conv.weight, layer.conv.bias, stride=2, padding=1)
    assert torch.allclose(layer(x, None), want, atol=1e-12)


def test_steps_may_be_counted_and_scaled_otherwise():
    network = awake(UNet(**SMALL)).double()
    from_zero, slow = (awake(UNet(**SMALL, **other)).double() for other in (dict(first_t=0), dict(first_t=0, t_scale=0.25)))
    for other in (from_zero, slow):
        other.load_state_dict(network.state_dict())
    assert torch.equal(from_zero(X_T, T + 1), network(X_T, T))
    assert torch.equal(slow(X_T, 4 * T + 1), network(X_T, T))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(groups=3), "groups = 3 must divide"),
        (dict(head_channels=5), "head_channels = 5"),
        (dict(classes=-1), "classes = -1"),
        (dict(norm_eps=0), "norm_eps = 0"),
        (dict(first_t=-1), "first_t = -1"),
        (dict(t_scale=0.0), "t_scale = 0.0"),
    ],
)
def test_refuses_impossible_options(changes, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{**SMALL, **changes})


def test_under_autocast_the_first_convolution_sees_every_digit_of_x_t():
    """Two x_t that bfloat16 cannot tell apart: with the input rounded, the network could not either."""
    network = UNet(size=8, channels=1, base=8, multipliers=(1,), blocks=1, attention=())
    x_t = torch.full((1, 1, 8, 8), 230 / 256)
    near = x_t + 1 / 1024  # bfloat16 takes steps of 1/256 there
    assert torch.equal(x_t.bfloat16(), near.bfloat16())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        h, h_near = [], []
        for x, into in ((x_t, h), (near, h_near)):
            hook = network.first.register_forward_hook(lambda module, args, out, into=into: into.append(out))
            network(x, torch.tensor([1]))
            hook.remove()
    assert h[0].dtype == torch.float32 and not torch.equal(h[0], h_near[0])


def test_it_runs_on_the_meta_device():
    with torch.device("meta"):
        network = UNet(size=8, channels=1, base=8, multipliers=(1,), attention=())
        assert network(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2])).shape == (2, 1, 8, 8)
