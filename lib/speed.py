"""How fast models translate: sentences a second, latency against target length, and the ratios.

Every system translates the same work in each round, one after the other, so that a noisy machine
hits all alike; medians over rounds are reported, and work a CPU-second beside work a second.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import plots, published
from .batching import Tokenised, collate, padded_length
from .decoding import Procedure, hypotheses
from .errors import ConfigError
from .inference import freeze
from .models import count_parameters
from .refinement import refine
from .search import beam_search
from .subword import EOS

__all__ = ["System", "Work", "controlled", "free", "latencies", "latency_figure", "latency_slopes",
           "measure", "never_ending", "speeds", "table4", "work"]


@dataclass(frozen=True, eq=False)
class Work:
    """A batch to translate."""

    source: Int64[Tensor, "batch source"]
    mask: Tensor | None
    length: int
    """subwords of the longest target, one EOS among them"""


@dataclass(frozen=True)
class System:
    """What is timed: a model with a decoding setting, or another engine's."""

    name: str
    setting: str
    weights: str
    parameters: int
    translate: Callable[[Work], Sequence[Sequence[int]]]
    """subwords of each hypothesis, without EOS"""


def work(data: Tokenised, rows: Sequence, where: torch.device | str = "cpu",
         ) -> list[Work]:
    """A `Work` for each group of row numbers of a tokenised corpus."""
    batches = [collate(data, np.asarray(group), 1).to(where) for group in rows]
    return [Work(b.source, b.source_mask, int(b.target_tokens.max())) for b in batches]


def free(name: str, model: nn.Module, setting: str, weights: str = "auto",
         length_penalty: float = 0.6) -> System:
    """A trained model that decides itself how long its outputs are."""
    frozen = freeze(model, weights)

    def translate(given: Work) -> list[list[int]]:
        return hypotheses(frozen, given.source, given.mask, [setting], length_penalty)[setting]

    return System(name, setting, weights, count_parameters(model), translate)


def controlled(name: str, model: nn.Module, setting: str, weights: str = "auto") -> System:
    """An untrained model whose outputs are made as long as the references.

    Random weights know no end. Search runs for exactly the reference's subwords (give a
    `never_ending` model); a latent model gets the reference's padded length, and every refinement
    step is taken, since its outputs are kept from settling.

    Errors: ConfigError for a setting other than greedy, beam<width>, k<steps>.
    """
    procedure = Procedure.parse(setting)
    if str(replace(procedure, width=1, steps=0)) not in ("greedy", "beam1", "k0"):
        raise ConfigError(f"setting '{setting}' can't be timed at a given length: greedy, "
                          "beam<width> or k<steps>")
    procedure.check(model)
    frozen = freeze(model, weights)
    steps = _keep_moving(frozen) if model.decoding == "parallel" else None

    def search(given: Work) -> list[list[int]]:
        return beam_search(frozen, given.source, given.mask, procedure.width, 0.0, given.length)[0]

    def refined(given: Work) -> list[list[int]]:
        padded = padded_length(given.length - 1, frozen.multiple)
        lengths = torch.full((len(given.source),), padded, device=given.source.device)
        before = len(steps) + 1
        found = refine(frozen, given.source, given.mask, [procedure.steps], lengths)
        if len(steps) - before != procedure.steps:
            raise ConfigError(f"{name}, {setting}: refinement ended after {len(steps) - before} "
                              "steps; its time would be that of fewer steps")
        return found[procedure.steps]

    return System(name, setting, weights, count_parameters(model),
                  search if steps is None else refined)


def _keep_moving(model: nn.Module) -> list[int]:
    """Make each step's output differ from the last one's; returns a list that grows by a decoding.

    The number of every second output's subwords is raised by one: no output settles, at the cost of
    two sums of a few integers.
    """
    decode, vocabulary, steps = model.decode, len(model.embedding.weight), []

    def moving(*given):
        steps.append(len(steps))
        tokens, parity = decode(*given), len(steps) % 2
        return SimpleNamespace(argmax=lambda: (tokens.argmax() + parity) % vocabulary)

    model.decode = moving
    return steps


def never_ending(model: nn.Module) -> nn.Module:
    """A copy of a Transformer that gives EOS hardly any probability, so that a limit ends it."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.decoder.norm.bias[0] = 20.0
        model.embedding.weight[:, 0] = 0.0
        model.embedding.weight[EOS, 0] = -2.0
    return model


@torch.inference_mode()
def measure(systems: Sequence[System], works: Sequence[Work], rounds: int = 3,
            progress: bool = True) -> pd.DataFrame:
    """Seconds of each system on each batch in each round, after a warm-up on the widest batches.

    A row a system, batch and round: `system, setting, weights, parameters, batch, work, round,
    target_length` (subwords that were made, one EOS more; the mean of a batch), `seconds`,
    `cpu_seconds` (of this process: other processes don't count).
    """
    rows = []
    for system in systems:
        for given in {w.source.shape: w for w in works}.values():
            system.translate(given)
    total = rounds * len(systems) * len(works)
    bar = tqdm(total=total, desc="translating", disable=not progress, leave=False)
    with bar:
        for turn in range(rounds):
            for place, given in enumerate(works):
                for system in systems:
                    wall, cpu = time.perf_counter(), time.process_time()
                    found = system.translate(given)
                    if given.source.is_cuda:
                        torch.cuda.synchronize()
                    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                    rows.append({
                        "system": system.name, "setting": system.setting,
                        "weights": system.weights, "parameters": system.parameters,
                        "batch": len(given.source), "work": place, "round": turn,
                        "target_length": sum(map(len, found)) / len(found) + 1,
                        "seconds": wall, "cpu_seconds": cpu})
                    bar.update()
    return pd.DataFrame(rows)


KEYS = ["system", "setting", "weights", "parameters", "batch"]


def speeds(times: pd.DataFrame) -> pd.DataFrame:
    """A row a system and batch size: sentences a second and a CPU-second, medians over rounds.

    `low` and `high` are the slowest and the fastest round.
    """
    sums = times.assign(sentences=times["batch"]).groupby([*KEYS, "round"], sort=False)[
        ["seconds", "cpu_seconds", "sentences"]].sum()
    rates = pd.DataFrame({"sentences_per_second": sums["sentences"] / sums["seconds"],
                          "sentences_per_cpu_second": sums["sentences"] / sums["cpu_seconds"]})
    groups = rates.groupby(KEYS, sort=False)
    result = groups.median()
    result["low"] = groups["sentences_per_second"].min()
    result["high"] = groups["sentences_per_second"].max()
    result["rounds"] = groups.size()
    return result.reset_index()


def latencies(times: pd.DataFrame) -> pd.DataFrame:
    """A row a system and sentence translated alone: target length, and milliseconds (median)."""
    alone = times[times["batch"] == 1]
    groups = alone.groupby(["system", "setting", "weights", "work"], sort=False)
    result = groups[["target_length", "seconds", "cpu_seconds"]].median().reset_index()
    return result.assign(milliseconds=1e3 * result.pop("seconds"),
                         cpu_milliseconds=1e3 * result.pop("cpu_seconds"))


def latency_slopes(latency: pd.DataFrame) -> pd.DataFrame:
    """What a subword more costs: least squares of CPU milliseconds on target length, a system.

    `growth` is the slope times the span of lengths, over the mean: 0 for a constant latency.
    """
    rows = []
    for (system, setting, weights), part in latency.groupby(["system", "setting", "weights"],
                                                            sort=False):
        lengths, spent = part["target_length"], part["cpu_milliseconds"]
        slope = np.polyfit(lengths, spent, 1)[0] if lengths.max() > lengths.min() else np.nan
        rows.append({"system": system, "setting": setting, "weights": weights,
                     "milliseconds": part["milliseconds"].median(),
                     "milliseconds a subword": slope,
                     "growth": slope * (lengths.max() - lengths.min()) / spent.mean()})
    return pd.DataFrame(rows)


def latency_figure(latency: pd.DataFrame) -> Figure:
    """Latency against target length, one colour a family, one panel for all systems."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    styles = iter(["-", "--", ":", "-."] * len(latency))
    for (system, setting, weights), part in latency.groupby(["system", "setting", "weights"],
                                                            sort=False):
        colour, marker = plots.style(system) if system in published.MODELS else (plots.INK, "x")
        mean = part.groupby(part["target_length"].round())["milliseconds"].median()
        label = f"{published.MODELS.get(system, system)} {setting}"
        label += "" if weights == "auto" else f" {weights}"
        axes.plot(mean.index, mean, next(styles), color=colour, marker=marker, markersize=3,
                  label=label)
    axes.set_yscale("log")
    plots.finish(axes, "target length (subwords with EOS)",
                 "latency (ms a sentence, lower is better)")
    axes.legend(fontsize=8, frameon=False, ncols=2)
    return figure


def table4(speed: pd.DataFrame, baseline: tuple[str, str] = ("tr_b", "beam4")) -> pd.DataFrame:
    """Sizes, sentences a second and ratios, a row a system: the paper's Table 4 and its neighbours.

    `vs <baseline>`: speed at batch size 1 over the baseline's at the same weights (`auto` where it
    has no such row); `vs CTranslate2`: over that engine's beam search in fp32, where it was timed;
    `paper`: over Tr-B's beam search on a GPU, NaN where it isn't transcribed.

    Errors: ConfigError where the baseline wasn't timed.
    """
    wide = speed.pivot_table(index=KEYS[:4], columns="batch", values="sentences_per_second",
                             sort=False).reset_index()
    own = wide[(wide["system"] == baseline[0]) & (wide["setting"] == baseline[1])]
    if own.empty or 1 not in wide:
        raise ConfigError(f"Table 4 compares with {' '.join(baseline)} at batch size 1: "
                          "time it too")
    own = own.set_index("weights")[1]
    outside = wide[(wide["system"] == "ctranslate2") & (wide["weights"] == "float32")]
    theirs = float(outside[1].iloc[0]) if len(outside) else np.nan
    name = published.MODELS.get(baseline[0], baseline[0])
    cells = published.table4()
    result = wide.rename(columns={b: f"sentences/s, batch {b}" for b in speed["batch"].unique()})
    result[f"vs {name} {baseline[1]}"] = [
        row[1] / own.get(row["weights"], own.iloc[0]) for _, row in wide.iterrows()]
    result["vs CTranslate2"] = wide[1] / theirs
    result["paper"] = [_published(cells, row.system, row.setting) for row in wide.itertuples()]
    return result


def _published(cells: pd.DataFrame, model: str, setting: str) -> float:
    """The paper's ratio; its Fl-B is taken for k = 0 and its beam search for any width."""
    found = published.value(cells, model=model, setting=setting, metric="speed_ratio")
    if np.isnan(found) and (setting == "k0" or setting.startswith("beam")):
        found = published.value(cells, model=model, setting="", metric="speed_ratio")
    return found
