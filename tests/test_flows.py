"""Every invertible layer against autograd's Jacobian over ragged masks, inverses, independence."""

import pytest
import torch
from tiny import close
from torch import nn

from lib.distributions import standard_normal_log_prob
from lib.flows import ActNorm, Condition, Coupling, Glow, InvertibleLinear, squeeze, unsqueeze
from lib.layers import WeightNormLinear, mask_bias

pytestmark = pytest.mark.usefixtures("float64")

LENGTHS = torch.tensor([4, 12, 8])
SOURCE_LENGTHS = torch.tensor([5, 2, 3])
MASK = torch.arange(12) < LENGTHS[:, None]
SOURCE_MASK = torch.arange(5) < SOURCE_LENGTHS[:, None]
CHANNELS, WIDTH = 32, 6  # of z, and of the source states
LAYERS = ["actnorm", "contiguous", "interleaved", *"cat"]


def randomise(model):
    """Away from every initial value at which an error could hide."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ActNorm | InvertibleLinear):
                for parameter in module.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape)
            elif isinstance(module, WeightNormLinear):
                for parameter in module.parameters():
                    parameter += 0.5 * torch.randn(parameter.shape)
            elif isinstance(module, nn.LayerNorm):
                module.weight += 0.2 * torch.randn(module.weight.shape)
                module.bias += 0.2 * torch.randn(module.bias.shape)
    return model


def layer(name):
    if name == "actnorm":
        return randomise(ActNorm(CHANNELS))
    if name in ("contiguous", "interleaved"):
        return randomise(InvertibleLinear(CHANNELS * 2, interleaved=name == "interleaved"))
    return randomise(Coupling(8, name, 2, 12))


def channels(model):
    if isinstance(model, ActNorm):
        return CHANNELS
    if isinstance(model, InvertibleLinear):
        return 2 * CHANNELS
    return model.width * (1 if model.split == "t" else 2)


def condition(model, mask=MASK, source_mask=SOURCE_MASK):
    source = None
    if isinstance(model, Coupling):
        generator = torch.Generator().manual_seed(3)
        shape = (len(SOURCE_LENGTHS), 2, int(SOURCE_LENGTHS.max()), model.width // 2)
        source = tuple(torch.randn(shape, generator=generator) for _ in range(2))
    return Condition(source, mask_bias(source_mask), mask, mask_bias(mask))


def glow(steps=(1, 1, 1), plans=("cat", "cat", "ca")):
    return randomise(Glow(CHANNELS, WIDTH, steps, plans, 2, 12))


def states():
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(4))


def conditions(model, mask=MASK, source=None, source_mask=SOURCE_MASK):
    source = states() if source is None else source
    return model.conditions(model.source(source), source_mask, mask)


def jacobian_slogdet(function, z, row, mask):
    """log|det d eps / d z| over the real positions of one sentence, the rest held."""
    length = z.shape[1] if mask is None else int(mask[row].sum())

    def flat(real):
        rows = z.clone()
        rows[row, :length] = real.view(length, -1)
        noise, _ = function(rows)
        noise = noise if isinstance(noise, list) else [noise]
        return torch.cat([eps[row, :length >> level].flatten() for level, eps in enumerate(noise)])

    full = torch.autograd.functional.jacobian(flat, z[row, :length].flatten(), vectorize=True)
    assert full.shape[0] == full.shape[1]
    return torch.linalg.slogdet(full)[1]


def layer_by_layer(model, z, given):
    """The density direction of a flow, every layer called for itself."""
    noise, total = [], torch.zeros(len(z))
    for level, (layers, here) in enumerate(zip(model.levels, given, strict=True)):
        if level:
            z, leaving = z.chunk(2, -1)
            noise.append(leaving)
            z = squeeze(z)
        for module, condition in zip(layers, here, strict=True):
            z, log_abs_det = module(z, condition)
            total = total + log_abs_det
    return [*noise, z], total


# One layer -----------------------------------------------------------------------------------

@pytest.mark.parametrize("mask", [MASK, None], ids=["ragged", "full"])
@pytest.mark.parametrize("name", LAYERS)
def test_log_abs_det_equals_the_jacobian(name, mask):
    model = layer(name)
    here = condition(model, mask)
    z = torch.randn(3, 12, channels(model))
    _, log_abs_det = model(z, here)
    expected = torch.stack([jacobian_slogdet(lambda x: model(x, here), z, row, mask)
                            for row in range(3)])
    close(log_abs_det, expected)
    assert log_abs_det.abs().min() > 0.01


@pytest.mark.parametrize("mask", [MASK, None], ids=["ragged", "full"])
@pytest.mark.parametrize("name", LAYERS)
def test_inverse_undoes_and_negates(name, mask):
    model = layer(name)
    here = condition(model, mask)
    z = torch.randn(3, 12, channels(model))
    eps, log_abs_det = model(z, here)
    back, inverse_log_abs_det = model.inverse(eps, here)
    assert (eps - z).abs().max() > 0.1
    close(back, z)
    close(inverse_log_abs_det, -log_abs_det)
    again, _ = model(model.inverse(z, here)[0], here)
    close(again, z)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_looks_at_no_padding_and_no_batch_mate(name):
    model = layer(name)
    here = condition(model)
    z = torch.randn(3, 12, channels(model))
    eps, log_abs_det = model(z, here)
    junk = torch.where(MASK[..., None], z, 100 * torch.randn(z.shape))
    junk_eps, junk_log_abs_det = model(junk, here)
    close(junk_eps[MASK], eps[MASK])
    close(junk_log_abs_det, log_abs_det)
    for row, length in enumerate(LENGTHS):
        source = here.source and tuple(x[row:row + 1, :, :SOURCE_LENGTHS[row]] for x in here.source)
        alone, alone_log_abs_det = model(z[row:row + 1, :length],
                                         Condition(source, None, None, None))
        close(alone[0], eps[row, :length])
        close(alone_log_abs_det[0], log_abs_det[row])


@pytest.mark.parametrize(("split", "kept"), [
    ("c", (slice(None), slice(None), slice(0, 4))),
    ("a", (slice(None), slice(None), slice(0, None, 2))),
    ("t", (slice(None), slice(0, None, 2), slice(None))),
])
def test_a_split_leaves_its_half_alone_and_moves_the_other(split, kept):
    model = layer(split)
    z = torch.randn(3, 12, channels(model))
    moved = model(z, condition(model))[0] - z
    assert torch.equal(moved[kept], torch.zeros_like(moved[kept]))
    rest = torch.ones_like(z, dtype=torch.bool)
    rest[kept] = False
    assert (moved[rest].abs() > 1e-6).all()
    assert int(rest.sum()) * 2 == z.numel()


@pytest.mark.parametrize("split", list("cat"))
def test_a_coupling_starts_as_one_scale_for_all(split):
    model = Coupling(8, split, 2, 12)
    z = torch.randn(3, 12, 8)
    eps, log_abs_det = model(z, condition(model))
    scale = torch.tensor(2.0).sigmoid()
    ratio = eps / z
    assert ((ratio - 1).abs() < 1e-12).sum() * 2 == z.numel()
    assert ((ratio - scale).abs() < 1e-12).sum() * 2 == z.numel()
    close(log_abs_det, LENGTHS * 4 * scale.log())


@pytest.mark.parametrize("split", list("cat"))
def test_a_coupling_reads_the_source_but_not_its_padding(split):
    model = layer(split)
    here = condition(model)
    z = torch.randn(3, 12, 8)
    eps, log_abs_det = model(z, here)
    real = SOURCE_MASK[:, None, :, None]
    junk = tuple(torch.where(real, x, 100 * torch.randn(x.shape)) for x in here.source)
    other = model(z, Condition(junk, here.source_bias, here.mask, here.bias))
    close(other[0][MASK], eps[MASK])
    close(other[1], log_abs_det)
    for part in range(2):  # keys alone, then values alone
        changed = list(here.source)
        changed[part] = torch.where(real, torch.randn(real.shape[0], 2, 5, model.width // 2),
                                    changed[part])
        other = model(z, Condition(tuple(changed), here.source_bias, here.mask, here.bias))
        assert (other[1] - log_abs_det).abs().min() > 1e-6


def test_actnorm_initialises_from_real_positions_only():
    model = ActNorm(5)
    z = (3 * torch.randn(3, 12, 5) - 2).masked_fill(~MASK[..., None], 1e8)
    model.initialise(z, MASK)
    eps, _ = model(z, condition(model))
    close(eps[MASK].mean(0), torch.zeros(5), 1e-8)
    close(eps[MASK].var(0, unbiased=False), torch.ones(5), 1e-5)


# The invertible 1x1 convolution --------------------------------------------------------------

@pytest.mark.parametrize("interleaved", [False, True])
def test_heads_mix_their_own_channels_only(interleaved):
    matrix = randomise(InvertibleLinear(96, interleaved)).matrix()
    index = torch.arange(96)
    head = index % 3 if interleaved else index // 32
    same = head[:, None] == head[None, :]
    assert torch.equal(matrix[~same], torch.zeros(int((~same).sum())))
    assert (matrix[same] != 0).double().mean() > 0.9
    kept = index < 48 if interleaved else index % 2 == 0
    assert all(kept[head == h].sum() == 16 for h in range(3))  # every head reaches both halves


@pytest.mark.parametrize("interleaved", [False, True])
def test_invertible_linear_starts_as_a_rotation(interleaved):
    model = InvertibleLinear(64, interleaved)
    matrix = model.matrix()
    close(matrix @ matrix.T, torch.eye(64))
    assert not torch.allclose(matrix, torch.eye(64))
    close(model.log_s.sum(), torch.zeros(()))


@pytest.mark.parametrize("fused", [False, True])
def test_inverse_follows_the_weights(fused):
    model = randomise(InvertibleLinear(32, True))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05, fused=fused)
    for _ in range(3):
        with torch.no_grad():
            close(model.inverse_matrix() @ model.matrix(), torch.eye(32))
            assert model.inverse_matrix() is model.inverse_matrix()  # made once a set of weights
        close(model.inverse_matrix() @ model.matrix(), torch.eye(32))
        model.matrix().square().sum().backward()
        optimiser.step()
    other = randomise(InvertibleLinear(32, True))
    model.load_state_dict(other.state_dict())
    with torch.no_grad():
        close(model.inverse_matrix() @ other.matrix(), torch.eye(32))


# The whole -----------------------------------------------------------------------------------

def test_squeeze_hand_worked():
    z = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]])
    assert squeeze(z).tolist() == [[[1, 2, 10, 20], [3, 4, 30, 40]]]
    assert torch.equal(unsqueeze(squeeze(z)), z)


@pytest.mark.parametrize("mask", [MASK, None], ids=["ragged", "full"])
def test_glow_log_abs_det_equals_the_jacobian(mask):
    model = glow()
    here = conditions(model, mask)
    z = torch.randn(3, 12, CHANNELS)
    _, log_abs_det = model(z, here)
    for row in range(3):
        expected = jacobian_slogdet(lambda x: model(x, here), z, row, mask)
        close(log_abs_det[row], expected, 1e-8)
    assert log_abs_det.abs().min() > 0.1


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("steps", [(1, 1, 1), (2, 1, 2), (1, 2), (1,)])
def test_glow_inverse_undoes_and_negates(steps, batch):
    model = glow(steps=steps, plans=("cat", "cat", "ca")[:len(steps)])
    here = conditions(model, MASK[:batch], states()[:batch], SOURCE_MASK[:batch])
    z = torch.randn(batch, 12, CHANNELS)
    noise, log_abs_det = model(z, here)
    assert [tuple(eps.shape) for eps in noise] == model.noise_shapes(batch, 12, CHANNELS)
    assert sum(eps.numel() for eps in noise) == z.numel()
    back, inverse_log_abs_det = model.inverse(noise, here)
    close(back, z, 1e-8)
    close(inverse_log_abs_det, -log_abs_det, 1e-8)


def test_glow_looks_at_no_padding_and_no_batch_mate():
    model = glow()
    here = conditions(model)
    z = torch.randn(3, 12, CHANNELS)
    noise, log_abs_det = model(z, here)
    junk = torch.where(MASK[..., None], z, 100 * torch.randn(z.shape))
    source = torch.where(SOURCE_MASK[..., None], states(), 100 * torch.randn(3, 5, WIDTH))
    other, other_log_abs_det = model(junk, conditions(model, source=source))
    close(other_log_abs_det, log_abs_det)
    for level, (ours, theirs) in enumerate(zip(noise, other, strict=True)):
        close(theirs[MASK[:, ::2**level]], ours[MASK[:, ::2**level]])
    for row, length in enumerate(LENGTHS):
        alone = conditions(model, None, states()[row:row + 1, :SOURCE_LENGTHS[row]], None)
        eps, alone_log_abs_det = model(z[row:row + 1, :length], alone)
        close(alone_log_abs_det[0], log_abs_det[row])
        for level in range(3):
            close(eps[level][0], noise[level][row, :length >> level])
        back, _ = model.inverse(eps, alone)
        close(back[0], z[row, :length])


def test_every_coupling_of_glow_reads_the_source():
    model = glow()
    z = torch.randn(3, 12, CHANNELS)
    _, log_abs_det = model(z, conditions(model))
    assert len(model.couplings()) == 3 + 1 + 3 + 1 + 2
    widths = [c.width for c in model.couplings()]
    assert widths == [16, 16, 32, 16, 16, 16, 32, 16, 16, 16]
    assert widths == model.source.widths
    for rows in model.source.weight.split([2 * width for width in widths]):
        kept = rows.detach().clone()
        with torch.no_grad():
            rows += torch.randn(rows.shape)
        assert (model(z, conditions(model))[1] - log_abs_det).abs().min() > 1e-6
        with torch.no_grad():
            rows.copy_(kept)


def test_samples_that_share_a_source_equal_separate_calls():
    model, samples = glow(), 3
    z = torch.randn(3 * samples, 12, CHANNELS)
    mask = MASK.repeat_interleave(samples, 0)
    noise, log_abs_det = model(z, conditions(model, mask))
    back, _ = model.inverse(noise, conditions(model, mask))
    close(back, z, 1e-8)
    for k in range(samples):
        eps, separate = model(z[k::samples], conditions(model))
        close(log_abs_det[k::samples], separate)
        for level in range(3):
            real = MASK[:, ::2**level]
            close(noise[level][k::samples][real], eps[level][real])


def test_all_actnorms_initialise_from_real_positions_only():
    model = glow(steps=(2, 1, 1))
    z = torch.randn(3, 12, CHANNELS) * torch.rand(CHANNELS) + 3
    model(z.masked_fill(~MASK[..., None], 1e6), conditions(model), initialise=True)
    seen = []
    for level, layers in enumerate(model.levels):
        for module in layers:
            if isinstance(module, ActNorm):
                module.register_forward_hook(
                    lambda m, i, out, level=level: seen.append(out[0][MASK[:, ::2**level]]))
    layer_by_layer(model, z, conditions(model))  # other padding
    assert len(seen) == 2 * 3 + 3 + 2
    for eps in seen:
        close(eps.mean(0), torch.zeros(CHANNELS), 1e-7)
        close(eps.var(0, unbiased=False), torch.ones(CHANNELS), 1e-4)


def test_density_of_a_small_flow_integrates_to_one():
    """One channel at two times: actnorm, coupling of times, times swapped, and again."""
    norms = ActNorm(1), ActNorm(1)
    couplings = [Coupling(1, "t", 1, 6) for _ in range(2)]
    for coupling in couplings:  # a norm over one channel would hide its input
        coupling.norm = nn.Identity()
        coupling.layer.norms = nn.ModuleList(nn.Identity() for _ in range(3))
    for model in (*norms, *couplings):
        randomise(model)
    for coupling in couplings:
        nn.init.constant_(coupling.out.g, 0.8)
    here = Condition(tuple(torch.randn(2, 1, 1, 3, 1).unbind(0)), None, None, None)

    def density(z):
        total = torch.zeros(len(z))
        for norm, coupling in zip(norms, couplings, strict=True):
            z, log_abs_det = norm(z.flip(1), here)
            total = total + log_abs_det
            z, log_abs_det = coupling(z, here)
            total = total + log_abs_det
        return (total + standard_normal_log_prob(z, None)).exp()

    axis = torch.linspace(-25, 25, 701)
    with torch.no_grad():
        values = density(torch.cartesian_prod(axis, axis)[:, :, None])
        scaled = couplings[1](torch.randn(50, 2, 1), here)[1]
    assert float(scaled.std()) > 0.1  # the scale depends on the other time
    assert float(values.sum() * (axis[1] - axis[0])**2) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("mask", [MASK, None], ids=["ragged", "full"])
def test_products_made_together_are_the_layers_one_by_one(mask):
    """The density direction in value and in the gradient of every parameter."""
    model, z = glow(steps=(2, 1, 1)), torch.randn(3, 12, CHANNELS, requires_grad=True)

    def all_of(noise, total):
        real = [eps if mask is None else eps[mask[:, ::2**level]]
                for level, eps in enumerate(noise)]
        loss = sum(eps.square().sum() for eps in real) - total.sum()
        return [*real, total, *torch.autograd.grad(loss, [z, *model.parameters()])]

    found = all_of(*model(z, conditions(model, mask)))
    expected = all_of(*layer_by_layer(model, z, conditions(model, mask)))
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs, 1e-8)
    assert max(float(g.detach().abs().max()) for g in expected) > 1
