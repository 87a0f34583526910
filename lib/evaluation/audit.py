"""How far likelihoods are from the truth; notebooks/06_likelihood_audit.ipynb asks for it.

On the first test sentences: annealed importance sampling beside the importance-weighted bound. On
as many sentences that the model itself wrote for the same sources, so that an exact posterior
sample is known: bidirectional Monte Carlo, which holds log p(y|x) between two bounds. All in fp32:
the weights would keep bf16's rounding. Writes `audit.csv` (a row a sentence) and `audit.json`
(settings, means) into the run's folder, a group of sentences at a time, and goes on where it was
stopped.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lib import runtime
from lib.batching import Batch, Tokenised, collate, evaluation_batches, padded_length
from lib.config import MODELS, Config, load_config
from lib.errors import ConfigError, DataError, check_least
from lib.evaluation.scoring import TrainedRun, load_run, table_rows
from lib.latent import LatentModel
from lib.layers import Memory
from lib.likelihood import effective_sample_size, iw_bound, released_estimate
from lib.likelihood.annealing import (
    AnnealedWeights,
    Annealing,
    GeometricPath,
    forward_annealing,
    reverse_annealing,
    tune_step_sizes,
)
from lib.models import model_class
from lib.paths import read_json, write_json
from lib.runs import run_folder, write_table
from lib.subword import text_fingerprint

__all__ = ["AuditSettings", "annealing_path", "audit", "complete", "read_audit", "simulate",
           "summarise"]

POSITIONS_AT_ONCE = 8192  # target positions, over all chains, that are on a CPU together
POSITION_BYTES = 2**21  # of a GPU's memory that one takes with its gradients
FIGURES = 9  # significant figures in audit.csv


@dataclass(frozen=True)
class AuditSettings:
    """What an audit computes. Errors: ConfigError for a value out of its range."""

    sentences: int = 50  # the first so many test sentences, and as many simulated ones
    samples: int = 1000  # K of the importance-weighted bound on the same sentences
    annealing: Annealing = field(default_factory=lambda: Annealing(30, 16, 2))
    seed: int = 0

    def __post_init__(self):
        check_least(self, sentences=1, samples=1, seed=0)

    def covers(self, wanted: "AuditSettings") -> bool:
        """Whether an audit with these settings tells all that one with `wanted` would."""
        here, there = self.annealing, wanted.annealing
        return (self.seed == wanted.seed and self.sentences >= wanted.sentences
                and self.samples >= wanted.samples and here.temperatures >= there.temperatures
                and here.chains >= there.chains)


# ---- from a trained model to a path and to data of its own ----

def annealing_path(model: LatentModel, memory: Memory, batch: Batch) -> GeometricPath:
    """The path from q(z|y,x) to p(y|z,x) p(z|x) for the sentences of a batch, source encoded."""
    mask = batch.target_mask
    with torch.no_grad():
        q = model.posterior(memory, batch.target, mask)
        p = model.prior(memory, batch.target.shape[1], mask)

    def log_joint(z: Tensor) -> Tensor:
        return model.decode(z, memory, mask).log_prob(batch.target, mask) + p.log_prob(z)

    return GeometricPath(q, log_joint)


@torch.no_grad()
def simulate(model: LatentModel, batch: Batch, seeds: list[int],
             ) -> tuple[Batch, Float[Tensor, "batch length d_latent"]]:
    """The same sources with targets of the model's own, and the latents behind them.

    z ~ p(z|x), y ~ p(y|z,x) at the references' padded lengths: z is an exact sample of p(z|y,x).
    A sentence's draws depend on its seed alone.
    """
    target, latents = torch.zeros_like(batch.target), []
    for row, seed in enumerate(seeds):
        real = slice(None) if batch.source_mask is None else batch.source_mask[row]
        memory = model.encode(batch.source[row, real][None], None)
        length = batch.target.shape[1] if batch.target_mask is None \
            else int(batch.target_mask[row].sum())
        generator = torch.Generator(batch.target.device).manual_seed(seed)
        z = model.prior(memory, length, None).rsample(1, generator)
        uniform = torch.rand(1, length, device=z.device, generator=generator)
        target[row, :length] = model.decode(z, memory, None).sample(uniform)[0]
        padded = z.new_zeros(batch.target.shape[1], z.shape[2])
        padded[:length] = z[0]
        latents.append(padded)
    return replace(batch, target=target), torch.stack(latents)


# ---- the audit ----

def audit(config: Config, settings: AuditSettings | None = None, progress: bool = True,
          ) -> pd.DataFrame:
    """audit.csv of a run, a row a sentence in corpus order; computes and writes what is missing.

    `line`, `n_tokens`, `n_tokens_padded`, `log_p_length`; on the reference `iw_bound_<k>`,
    `iw_effective_sample_size`, `released_estimate`, `ais`, `ais_error`,
    `ais_effective_sample_size`, `acceptance`, `step_size`; on the simulated target
    `simulated_lower`, `simulated_upper`, `simulated_iw_bound`, `simulated_released_estimate`.
    Nats per sentence without the length; released estimates per padded token.

    Errors: ConfigError for a model whose likelihood is exact; CheckpointError from `load_run`.
    """
    settings = settings or AuditSettings()
    if not model_class(config.architecture).latents:
        latent = (m for m in MODELS if model_class(load_config(m).architecture).latents)
        raise ConfigError(f"{config.model} has no latent variables to anneal: audit a latent "
                          f"model, {', '.join(latent)}")
    run = load_run(config)
    if len(run.task.test) < settings.sentences:
        raise ConfigError(f"{settings.sentences} sentences, but the test set of "
                          f"{config.dataset.name} has {len(run.task.test)}: ask for fewer")
    run.model.requires_grad_(False)
    folder = run_folder(config).path
    scored = {"step": run.step, "dev_bleu": run.dev_bleu,
              "references": text_fingerprint(run.task.references("test")),
              "sources": text_fingerprint(run.task.sources("test"))}
    rows, spent = _resume(config, settings, scored)
    started, before = time.monotonic(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        for group in _groups(run, settings, rows, progress):
            lines = set(group.index.tolist())
            rows = [row for row in rows if row["line"] not in lines]
            rows += _audit_group(run, settings, group)
            frame = pd.DataFrame(rows).sort_values("line").reset_index(drop=True)
            seconds = round(spent + time.monotonic() - started, 1)
            write_table(folder / "audit.csv", frame, FIGURES)
            write_json(folder / "audit.json", {"settings": asdict(settings)} | scored | {
                "lines": len(frame), "seconds": seconds, "device": str(runtime.device()),
                "summary": summarise(frame)})
    finally:
        torch.set_float32_matmul_precision(before)
    return pd.read_csv(folder / "audit.csv")


def _groups(run: TrainedRun, settings: AuditSettings, rows: list[dict], progress: bool):
    """Batches that aren't done yet, behind a progress bar."""
    data: Tokenised = run.task.test.take(np.arange(settings.sentences))
    done = {row["line"] for row in rows}
    where = run.model.device
    positions = runtime.device_positions(where, POSITIONS_AT_ONCE, POSITION_BYTES)
    tokens = max(1, positions // settings.annealing.chains)
    with tqdm(total=len(data), initial=len(rows), desc=f"audit of {run.config.model}",
              unit="sentence", disable=not progress, leave=False) as bar:
        for group in evaluation_batches(data, tokens, run.model.multiple):
            if not done.issuperset(data.lines[group].tolist()):
                yield collate(data, group, run.model.multiple).to(where)
                bar.update(len(group))


def _audit_group(run: TrainedRun, settings: AuditSettings, batch: Batch) -> list[dict]:
    """The rows of a batch."""
    model, chains = run.model, settings.annealing
    # three a sentence: of the estimates on the reference, those on its simulation, and the latter
    seeds = [3 * (settings.seed * 1_000_003 + line) for line in batch.index.tolist()]
    with torch.no_grad():
        memory = model.encode(batch.source, batch.source_mask)
    forward = _forward(model, memory, batch, chains, seeds)[0]
    columns = {"line": batch.index, "n_tokens": batch.target_tokens,
               "n_tokens_padded": padded_length(batch.target_tokens - 1, model.multiple)}
    columns |= _importance_weighted(model, batch, settings, seeds)
    columns |= {"ais": forward.log_bound, "ais_error": forward.standard_error,
                "ais_effective_sample_size": forward.effective_sample_size}
    if chains.temperatures > 1:
        columns |= {"acceptance": forward.acceptance.mean(0),
                    "step_size": forward.step_size.mean(0)}
    own, z = simulate(model, batch, [seed + 2 for seed in seeds])
    seeds = [seed + 1 for seed in seeds]
    lower, path, step_size = _forward(model, memory, own, chains, seeds)
    upper = reverse_annealing(path, chains, step_size, seeds, z)
    bounds = _importance_weighted(model, own, settings, seeds)
    columns |= {"simulated_lower": lower.log_bound, "simulated_upper": upper.log_bound,
                "simulated_iw_bound": bounds[f"iw_bound_{settings.samples}"],
                "simulated_released_estimate": bounds["released_estimate"]}
    return table_rows(columns)


def _forward(model: LatentModel, memory: Memory, batch: Batch, annealing: Annealing,
             seeds: list[int]) -> tuple[AnnealedWeights, GeometricPath, Tensor]:
    path = annealing_path(model, memory, batch)
    step_size = tune_step_sizes(path, annealing, seeds)
    return forward_annealing(path, annealing, step_size, seeds), path, step_size


def _importance_weighted(model: LatentModel, batch: Batch, settings: AuditSettings,
                         seeds: list[int]) -> dict[str, Tensor]:
    """The importance-weighted bound at K = 1, 10, ... of the same draws, and what it rests on."""
    where = batch.target.device
    generators = [torch.Generator(where).manual_seed(seed) for seed in seeds]
    terms = model.log_prob_terms(batch, settings.samples, generators)
    parts = [t.double() for t in (terms.log_p_y, terms.log_p_z, terms.log_q_z)]
    lengths = padded_length(batch.target_tokens - 1, model.multiple)
    counts = [k for k in (1, 10, 100, 1000) if k < settings.samples] + [settings.samples]
    return {"log_p_length": terms.log_p_length.double(),
            **{f"iw_bound_{k}": iw_bound(*(p[:k] for p in parts)) for k in counts},
            "iw_effective_sample_size": effective_sample_size(*parts),
            "released_estimate": released_estimate(*parts, lengths)}


# ---- what is on disk ----

def _resume(config: Config, settings: AuditSettings, scored: dict) -> tuple[list[dict], float]:
    """Rows of an earlier, possibly unfinished audit with these settings of what is `scored`, and
    the seconds that it took.
    """
    try:
        folder = run_folder(config).path
        description, frame = read_json(folder / "audit.json"), pd.read_csv(folder / "audit.csv")
        whole = frame[["line", "simulated_upper"]].notna().all(axis=None)
        same = {name: description[name] for name in scored} == scored
        if whole and same and _settings(description) == settings:
            return frame.to_dict("records"), float(description["seconds"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # none, or a damaged one: made again
    return [], 0.0


def read_audit(config: Config, wanted: AuditSettings | None = None,
               ) -> tuple[pd.DataFrame, dict] | None:
    """audit.csv and audit.json of a run; None without a finished audit, as fine as `wanted`, of the
    weights and the test text that metrics.json scored. Errors: DataError for a damaged file.
    """
    stored = _stored(config, wanted)
    return None if stored is None or not stored[2] else stored[:2]


def complete(configs: Iterable[Config], wanted: AuditSettings, progress: bool = True) -> None:
    """Audit the evaluated runs with latent variables whose weights are here, and that have no audit
    as fine as `wanted`. One that was stopped halfway goes on with its own settings.
    """
    for config in configs:
        folder = run_folder(config)
        if not (model_class(config.architecture).latents and folder.metrics.exists()
                and folder.best.exists()):
            continue
        stored = _stored(config, wanted)
        if stored is None or not stored[2]:
            audit(config, wanted if stored is None else _settings(stored[1]), progress)


def _settings(description: dict) -> AuditSettings:
    """What audit.json says that the audit was made with."""
    given = description["settings"]
    return AuditSettings(given["sentences"], given["samples"], Annealing(**given["annealing"]),
                         given["seed"])


def _stored(config: Config, wanted: AuditSettings | None) -> tuple[pd.DataFrame, dict, bool] | None:
    """audit.csv, audit.json and whether they are finished; None without any as fine as `wanted`."""
    folder = run_folder(config)
    if not (folder.path / "audit.json").exists():
        return None
    try:
        description = json.loads((folder.path / "audit.json").read_text(encoding="utf-8"))
        settings = _settings(description)
        frame = pd.read_csv(folder.path / "audit.csv")
        metrics = folder.read_metrics()
        scored = {"step": metrics.step, "dev_bleu": metrics.dev_bleu,
                  "references": metrics.test_set.references, "sources": metrics.test_set.sources}
        same = all(value in ("", description.get(name)) for name, value in scored.items())
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise DataError(f"the audit in {folder.path} is damaged ({error!r}): remove audit.csv and "
                        "audit.json there, and notebooks/06_likelihood_audit.ipynb makes it "
                        "again") from error
    if not same or not settings.covers(wanted or settings):
        return None
    return frame, description, len(frame) >= settings.sentences


def summarise(frame: pd.DataFrame) -> dict[str, float | int]:
    """Means over the sentences of an audit, nats per sentence; errors are standard errors.

    `gap`: upper minus lower bound on the simulated sentences. Per padded token:
    `released_minus_ais` on the references; on the simulated sentences `released_minus_upper`, what
    the released estimate has over the upper bound (`released_above_upper` of them).
    """
    last = max((c for c in frame if c.startswith("iw_bound_")), key=lambda c: int(c[9:]))
    tokens = frame["n_tokens_padded"]
    columns = {
        "iw_bound": frame[last], "ais": frame["ais"], "ais_minus_iw": frame["ais"] - frame[last],
        "gap": frame["simulated_upper"] - frame["simulated_lower"],
        "upper_minus_iw": frame["simulated_upper"] - frame["simulated_iw_bound"],
        "released_minus_ais": frame["released_estimate"] - frame["ais"] / tokens,
        "released_minus_upper": (frame["simulated_released_estimate"]
                                 - frame["simulated_upper"] / tokens)}
    result: dict[str, float | int] = {"sentences": len(frame)}
    for name, values in columns.items():
        result |= {name: float(values.mean())}
        if len(frame) > 1:
            result |= {f"{name}_error": float(values.sem())}
    return result | {"released_above_upper": int((columns["released_minus_upper"] > 0).sum())}
