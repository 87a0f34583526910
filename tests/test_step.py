"""Steps on batches of fixed shapes: the losses, gradients and weights of eager training."""

from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from test_graphs import Watch
from test_training import Interrupted, assert_same_run, elsewhere, run, small
from tiny import AUTOREGRESSIVE, EVERY, model_of, ragged, tokenised
from tiny import FAMILIES as ARCHITECTURES

from lib import training
from lib.batching import collate, collate_fixed, padded_length, training_batches
from lib.config import load_config
from lib.distributions import DiagonalGaussian
from lib.errors import TrainingError
from lib.models import build
from lib.training import Trainer, step
from lib.training.averaging import WeightAverage
from lib.training.step import FixedStep, Scalars, takes_fixed_shapes

pytestmark = pytest.mark.usefixtures("isolated")

FAMILIES = ("tr_s", "ga_b", "fl_s", "na_b", "da_b", "ct_b", "md_b")
UNDRAWN = pytest.mark.parametrize(  # shapes don't decide what is masked
    "architecture", [a for a in ARCHITECTURES if a.family != "masked"], ids=lambda a: a.family)
EXACT = pytest.mark.usefixtures("float64")
PLAIN = {"dropout": 0.0, "kl_start": 1, "kl_ramp": 2}  # weights 0, 0.5, 1 in three steps


@pytest.fixture
def fixed(monkeypatch):
    """Trainers take fixed shapes on a CPU too."""
    monkeypatch.setattr(training, "takes_fixed_shapes", lambda *_: True)


@pytest.fixture
def noiseless(monkeypatch):
    """A posterior's sample is its mean, so that shapes don't decide random numbers."""
    monkeypatch.setattr(DiagonalGaussian, "rsample", lambda self, *_: self.loc)


@contextmanager
def shapes(monkeypatch, are_fixed: bool):
    with monkeypatch.context() as patch:
        patch.setattr(training, "takes_fixed_shapes", lambda *_: are_fixed)
        yield


def trained(monkeypatch, isolated, config, groups, are_fixed):
    """A trainer after a step on each of the groups of rows, and the steps' terms."""
    elsewhere(monkeypatch, isolated, f"{'fixed' if are_fixed else 'ragged'}")
    with shapes(monkeypatch, are_fixed):
        trainer = Trainer(config, progress=False)
    trainer._next_rows = iter(groups).__next__
    terms = [{name: float(value) for name, value in trainer.train_step().items()} for _ in groups]
    trainer.settle()
    return trainer, terms


def assert_same_state(one: Trainer, other: Trainer, tolerance: float) -> None:
    kinds = (dict(one.model.named_parameters()), dict(other.model.named_parameters())), \
        (one.average.values, other.average.values)
    for values, same in kinds:
        for name, value in values.items():
            torch.testing.assert_close(same[name], value, rtol=0, atol=tolerance, msg=name)
    states, same = (trainer.optimiser.state_dict()["state"] for trainer in (one, other))
    assert set(states) == set(same)
    for place, state in states.items():
        assert float(state["step"]) == float(same[place]["step"])


# The same steps ------------------------------------------------------------------------------

@EXACT
@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("keeps_pace", [False, True])
@pytest.mark.parametrize("model", [name for name in FAMILIES if name != "md_b"])
def test_three_steps_are_those_of_eager_training(model, keeps_pace, monkeypatch, isolated):
    """Without the KL, with half of it and with all of it, on ragged rows that are filled up."""
    changes = PLAIN | {"posterior_penalty": 0.01}
    if model[:2] in ("ga", "fl"):
        changes |= {"prior_keeps_pace": keeps_pace}
    config = small(model, **changes)
    groups = [np.arange(9), np.arange(20, 26), np.arange(40, 55)]
    eager, expected = trained(monkeypatch, isolated, config, groups, False)
    actual, terms = trained(monkeypatch, isolated, config, groups, True)
    for here, there in zip(terms, expected, strict=True):
        assert here == pytest.approx(there, rel=1e-9)
    assert [set(t) == set(terms[0]) for t in terms] == [True, *[model[:2] not in ("ga", "fl")] * 2]
    assert_same_state(eager, actual, 1e-9)
    for name in eager.sums:
        assert actual.sums[name] == pytest.approx(eager.sums[name], rel=1e-9)


@EXACT
@pytest.mark.parametrize("model", FAMILIES)
def test_random_numbers_are_those_of_eager_training(model, monkeypatch, isolated):
    """Rows of one length that fill the shape, so that noise and dropout are drawn alike."""
    config = small(model, dropout=0.1, kl_start=1, kl_ramp=2)
    with shapes(monkeypatch, False):
        trainer = Trainer(config, progress=False)
    data = trainer.data
    source = data.source_lengths + 1
    target = padded_length(data.target_lengths, trainer.model.multiple)
    full = np.flatnonzero((source == target) & (source % 4 == 0))
    full = full[source[full] == source[full][0]]
    rows = np.resize(full, 256 // source[full][0])
    eager, expected = trained(monkeypatch, isolated, config, [rows] * 3, False)
    actual, terms = trained(monkeypatch, isolated, config, [rows] * 3, True)
    for here, there in zip(terms, expected, strict=True):
        assert here == pytest.approx(there, rel=1e-9)
    assert_same_state(eager, actual, 1e-9)


# Batches of fixed shapes ---------------------------------------------------------------------

def gradients(model, batch, settings, weight):
    model.zero_grad()
    terms = model.loss_terms(batch, settings, weight)
    terms["loss"].backward()
    return terms, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@EXACT
@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("weight", ["0", "0.4", "tensor"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@UNDRAWN
def test_filling_up_changes_neither_loss_nor_gradient(architecture, smoothing, weight):
    model, data = model_of(architecture, 11), tokenised(ragged(7, 11, 9))
    settings = replace(load_config("ga_b").training, label_smoothing=smoothing,
                       posterior_penalty=0.1, prior_keeps_pace=True)
    rows, plain = np.array([4, 0, 5, 2]), 0.0 if weight == "0" else 0.4
    weight = torch.tensor(0.4) if weight == "tensor" else plain
    expected, g_expected = gradients(model, collate(data, rows, model.multiple), settings, plain)
    for parts in (1, 2, 3):
        batches = collate_fixed(data, rows, model.multiple, 100, parts)
        actual = [gradients(model, batch, settings, weight) for batch in batches]
        for name, value in expected.items():
            torch.testing.assert_close(sum(terms[name] for terms, _ in actual), value, rtol=1e-10,
                                       atol=1e-10)
        assert all(set(g) == set(g_expected) for _, g in actual)
        for name, value in g_expected.items():
            torch.testing.assert_close(sum(g[name] for _, g in actual), value, rtol=1e-8,
                                       atol=1e-10, msg=name)


@EXACT
@EVERY
def test_a_batch_of_fillers_counts_nothing(architecture):
    model, data = model_of(architecture, 11), tokenised(ragged(3, 11, 5))
    *_, empty = collate_fixed(data, np.arange(2), model.multiple, 100, 4)
    assert (empty.target_tokens == 0).all() and (empty.index == -1).all()
    terms, actual = gradients(model, empty, load_config("ga_b").training, 1.0)
    assert all(float(value.detach()) == 0.0 for value in terms.values())
    assert all((g == 0).all() for g in actual.values())


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("tokens", [256, 2000])
def test_fixed_batches_hold_every_row_once_in_few_shapes(multiple, tokens):
    rng = np.random.default_rng(1)
    data = tokenised([tuple([5] * int(n) for n in rng.integers(1, 60, 2)) for _ in range(900)])
    groups = training_batches(data, tokens, multiple, seed=1, epoch=0, fixed=True)
    assert sorted(np.concatenate(groups)) == list(range(len(data)))
    again = training_batches(data, tokens, multiple, seed=1, epoch=0, fixed=True)
    assert [g.tolist() for g in groups] == [g.tolist() for g in again]
    other = training_batches(data, tokens, multiple, seed=1, epoch=1, fixed=True)
    assert [g.tolist() for g in groups] != [g.tolist() for g in other]
    actual, short = set(), 0
    for rows in groups:
        [batch] = collate_fixed(data, rows, multiple, tokens)
        assert batch.source.shape == batch.target.shape and batch.fixed
        actual.add(tuple(batch.source.shape))
        short += len(rows) < len(batch)
        plain = collate(data, rows, multiple)
        assert batch.index[:len(rows)].tolist() == plain.index.tolist()
        assert int(batch.target_tokens.sum()) == int(plain.target_tokens.sum())
        assert int(batch.source_mask.sum()) == int((plain.source != 0).sum()) + len(batch) - len(
            rows)
        assert int(batch.target_mask.sum()) == int((plain.target != 0).sum())
    assert short <= 1
    assert len(actual) <= 12 and all(len(batch) * width <= tokens for batch, width in
                                    ((range(rows), width) for rows, width in actual))
    assert {width % 4 for _, width in actual} == {0}


# Nothing asked of the host, nothing lost on the way ------------------------------------------

def taken(model, **changes):
    """A step of an architecture's model that can be called, and a group of rows."""
    settings = replace(load_config("ga_b").training, **{"precision": "fp32", **changes})
    optimiser = torch.optim.Adam(model.parameters(), eps=1e-3, fused=True,
                                 capturable=next(model.parameters()).is_cuda)
    return FixedStep(model, optimiser, WeightAverage(model, 0.9), settings, seed=1)


@EVERY
def test_the_captured_work_asks_nothing_of_the_host(architecture):
    model, data = model_of(architecture, 11), tokenised(ragged(7, 11, 9))
    stepper = taken(model.train(), prior_keeps_pace=True, posterior_penalty=0.1,
                    label_smoothing=0.1)
    [batch] = collate_fixed(data, np.arange(5), model.multiple, 100)
    scalars = Scalars(0.001, 0.5, 0.1, 0.9)
    stepper(1, lambda parts: [batch], scalars)  # tables are there
    stepper(2, lambda parts: [batch], replace(scalars, weight=0.0))
    for with_kl in (True, False):
        with Watch():
            stepper._backward(batch, with_kl)
    stepper.optimiser.step = lambda: None  # its lr is read on a CPU
    with Watch():
        stepper._move()


@EXACT
@pytest.mark.usefixtures("noiseless", "fixed")
@pytest.mark.parametrize("model", [name for name in FAMILIES if name != "md_b"])
def test_out_of_memory_halves_the_batches_and_keeps_the_gradient(model, monkeypatch, isolated):
    config = small(model, **PLAIN)
    groups = [np.arange(9), np.arange(20, 26), np.arange(40, 55)]
    whole, expected = trained(monkeypatch, isolated, config, groups, True)
    elsewhere(monkeypatch, isolated, "cut")
    trainer = Trainer(config, progress=False)
    trainer._next_rows = iter(groups).__next__
    real, limit, sizes = trainer.model.loss_terms, 256 / 3, []

    def limited(batch, *arguments):
        if batch.target.numel() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(batch.target.numel())
        return real(batch, *arguments)

    monkeypatch.setattr(trainer.model, "loss_terms", limited)
    with pytest.warns(UserWarning, match=r"batch_tokens = 1 x 256 positions.* in \d parts"):
        terms = [{k: float(v) for k, v in trainer.train_step().items()} for _ in groups]
    assert trainer._fixed.parts == 4 and len(sizes) == 4 * 3
    for here, there in zip(terms, expected, strict=True):
        assert here == pytest.approx(there, rel=1e-9)
    assert_same_state(whole, trainer, 1e-9)
    limit = 0
    with pytest.raises(TrainingError, match="64 parts: lower batch_tokens = 256"), \
            pytest.warns(UserWarning):
        trainer._next_rows = iter(groups).__next__
        trainer.train_step()


def test_out_of_memory_gives_back_the_graphs_of_updates_too(isolated, fixed):
    """They are of one pool with the batches', which gives nothing back while one is left."""
    trainer = Trainer(small("tr_s", **PLAIN), progress=False)
    trainer.train_step()
    before, real = list(trainer._fixed._updates.values()), trainer._fixed._rounded.losses
    failures = iter([True, False, False, False])

    def losses(*arguments):
        if next(failures):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    trainer._fixed._rounded.losses = losses
    with pytest.warns(UserWarning, match="in 2 parts"):
        trainer.train_step()
    assert before and not {*before} & {*trainer._fixed._updates.values()}


def test_an_update_that_lacks_memory_says_what_to_lower(isolated, fixed, monkeypatch):
    trainer = Trainer(small("tr_s", **PLAIN), progress=False)
    monkeypatch.setattr(trainer.average, "follow", Mock(
        side_effect=torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(TrainingError, match="update of the weights: lower batch_tokens = 256"):
        trainer.train_step()


def test_a_failed_capture_leaves_no_graph_that_draws_from_the_old_generator(monkeypatch):
    state = Mock()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", [state], raising=False)
    monkeypatch.setattr(torch, "Generator", Mock())
    stepper = taken(build(AUTOREGRESSIVE, 40))
    stepper._updates[True] = step._Stage(lambda: None, stepper)
    stepper._updates[True].graph, stepper._pool = Mock(), (0, 1)
    assert stepper.captured == 1
    with pytest.warns(UserWarning, match="without CUDA graphs, .* failed: no such thing"):
        stepper._give_up(RuntimeError("no such thing\nat all"))
    assert stepper.captured == 0 and stepper._pool is None
    state.graphsafe_set_state.assert_called_once()


@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize("model", FAMILIES)
def test_resumed_is_uninterrupted(model, monkeypatch, isolated):
    """Stopped between checkpoints, and in the step that the KL enters with."""
    config, expected, log = small(model, accumulate=2, batch_tokens=64), {}, {}
    whole = run(config, expected)
    assert whole.epoch >= 1, "the run should cross epochs"
    elsewhere(monkeypatch, isolated, "other")
    for until in (2, 5, 7, 11):
        with pytest.raises(Interrupted):
            run(config, log, until)
    assert_same_run(whole, run(config, log))
    assert log == expected


@pytest.mark.usefixtures("fixed")
def test_a_checkpoint_of_fixed_shapes_goes_on_by_eager_steps_and_back(monkeypatch, isolated):
    config = small("ga_b", steps=6)
    run(small("ga_b", steps=3), {})
    with shapes(monkeypatch, False):
        trainer = run(config, {})
    assert (trainer.step, type(trainer.optimiser.param_groups[0]["lr"])) == (6, float)
    trainer = run(small("ga_b", steps=9), {})
    assert trainer.step == 9 and torch.is_tensor(trainer.optimiser.param_groups[0]["lr"])


# Steps that go wrong -------------------------------------------------------------------------

@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize(("where", "reason"), [
    ("embedding.weight", r"loss term nll is nan"), ("hook", r"the gradient's norm is (inf|nan)")])
def test_a_step_that_is_not_finite_is_never_saved(where, reason, monkeypatch):
    config = small("tr_s", steps=9)
    trainer = Trainer(config, progress=False)
    for _ in range(3):
        trainer.train_step()
    trainer.validate()
    saved = trainer.folder.last.read_bytes()
    trainer.train_step()
    weight = trainer.model.embedding.weight
    if where == "hook":
        weight.register_hook(lambda g: g * float("inf"))
    else:
        torch.nn.init.constant_(weight, float("nan"))
    trainer.train_step()  # goes wrong, and nobody has looked
    trainer.train_step()
    with pytest.raises(TrainingError, match=f"^step 5: {reason}.*last good checkpoint: "):
        trainer.validate()
    assert trainer.folder.last.read_bytes() == saved
    assert Trainer(config, progress=False).step == 3


@pytest.mark.usefixtures("fixed")
def test_the_log_is_read_before_it_overflows(monkeypatch):
    monkeypatch.setattr(step, "READ_EVERY", 4)
    trainer = Trainer(small("tr_s", steps=30), progress=False)
    unread = []
    for _ in range(10):
        trainer.train_step()
        unread.append(len(trainer._fixed.unread))
    assert unread == [1, 2, 3, 0] * 2 + [1, 2]
    trainer.settle()
    assert trainer.settled
    assert trainer.sums["tokens"][0] == trainer.sums["tokens"][1] > 0


def test_only_a_gpu_alone_takes_fixed_shapes(monkeypatch):
    settings = load_config("tr_s").training
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert takes_fixed_shapes(settings, gpu) and not takes_fixed_shapes(settings, cpu)
    assert not takes_fixed_shapes(replace(settings, graphs=False), gpu)
    monkeypatch.setattr(step.parallel, "processes", lambda: 2)
    assert not takes_fixed_shapes(settings, gpu)


# On a GPU ------------------------------------------------------------------------------------

STEPS = [0.0, 0.0, 0.5, 0.5, 1.0]  # KL weights: both phases are captured, and replayed


def on_gpu(architecture, graphs: bool, dropout: float = 0.1, where: str = "cuda"):
    """The terms of five steps on two shapes in turn, and the weights and averages after them."""
    torch.manual_seed(0)
    model = build(architecture, 40, dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    stepper = taken(model.to(where), label_smoothing=0.1, posterior_penalty=0.01,
                    prior_keeps_pace=True)
    if not graphs:
        stepper._pool = None
    data = tokenised(ragged(40, 40, 20))
    terms = []
    for number, weight in enumerate([*STEPS, *STEPS], 1):
        short = np.maximum(data.source_lengths, data.target_lengths) < 10
        rows = np.flatnonzero(short == bool(number % 2))[:9]
        actual = stepper(number, lambda parts, rows=rows: collate_fixed(
            data, rows, model.multiple, 400, parts), Scalars(1e-3, weight, 1 / 50, 0.9))
        terms.append({name: float(value) for name, value in actual.items()})
    weights = {name: p.detach().cpu() for name, p in model.named_parameters()}
    return stepper, terms, weights, {n: v.cpu() for n, v in stepper.average.values.items()}


def assert_close(actual, expected, tolerance=1e-4):
    for here, there in zip(actual[1], expected[1], strict=True):
        assert here == pytest.approx(there, rel=tolerance)
    for values, same in zip(actual[2:], expected[2:], strict=True):
        for name, value in same.items():
            torch.testing.assert_close(values[name], value, rtol=0, atol=tolerance, msg=name)


@pytest.mark.gpu
@pytest.mark.filterwarnings("error:training goes on without CUDA graphs")
@EVERY
def test_replayed_steps_are_plain_ones(architecture):
    """Dropout and noise included: both ways draw the same numbers."""
    actual, expected = on_gpu(architecture, True), on_gpu(architecture, False)
    assert (actual[0].captured, expected[0].captured) == (4 + 2, 0)
    assert_close(actual, expected)


@pytest.mark.gpu
@pytest.mark.usefixtures("noiseless")
@UNDRAWN
def test_replayed_steps_are_those_of_the_cpu(architecture):
    assert_close(on_gpu(architecture, True, 0.0), on_gpu(architecture, False, 0.0, "cpu"))


@pytest.mark.gpu
@EVERY
def test_a_replayed_step_draws_from_its_own_seed(architecture):
    """The same number gives the same loss again, another one another, and so would plain calls."""
    model, data = build(architecture, 40, 0.3).cuda(), tokenised(ragged(20, 40, 20))
    stepper = taken(model)

    def loss(number):
        actual = stepper(number, lambda parts: collate_fixed(data, np.arange(9), model.multiple,
                                                            400, parts),
                        Scalars(0.0, 1.0, 0.01, 0.9))
        return float(actual["loss"])

    first = [loss(number) for number in (1, 2, 3, 1, 2, 3)]
    assert stepper.captured == 2 and len(set(first[:3])) == 3
    assert first[3:] == pytest.approx(first[:3], rel=1e-5)
    stepper._shapes.clear()
    stepper._pool = None
    assert [loss(number) for number in (2, 3)] == pytest.approx(first[1:3], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("error:training goes on without CUDA graphs")
@pytest.mark.parametrize("model", FAMILIES)
def test_resumed_on_a_gpu_is_uninterrupted_to_rounding(model, monkeypatch, isolated):
    config, expected, log = small(model), {}, {}
    whole = run(config, expected)
    assert whole._fixed.captured > 2
    elsewhere(monkeypatch, isolated, "other")
    for until in (2, 7):
        with pytest.raises(Interrupted):
            run(config, log, until)
    resumed = run(config, log)
    assert resumed.step == whole.step and set(log) == set(expected)
    for number, terms in expected.items():
        assert log[number] == pytest.approx(terms, rel=1e-3), number
    for row, same in zip(resumed.history, whole.history, strict=True):
        assert row["dev_ll"] == pytest.approx(same["dev_ll"], rel=1e-3)


@pytest.mark.gpu
def test_memory_that_runs_out_on_a_gpu_halves_the_batches():
    """Really: most of the card is taken while a step wants more than what is left."""
    model, data = build(AUTOREGRESSIVE, 30_000).cuda(), tokenised(ragged(2000, 40, 60))
    stepper = taken(model)

    def batches(parts):
        return collate_fixed(data, np.arange(500), model.multiple, 32_768, parts)

    stepper(1, batches, Scalars(1e-3, 1.0, 1e-4, 0.9))
    stepper._shapes.clear()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    taken_up = torch.empty(free - 600 * 2**20, dtype=torch.uint8, device="cuda")
    with pytest.warns(UserWarning, match="memory doesn't suffice"):
        actual = stepper(2, batches, Scalars(1e-3, 1.0, 1e-4, 0.9))
    assert stepper.parts > 1 and np.isfinite(float(actual["loss"]))
    del taken_up
