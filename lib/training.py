"""Training of any family: the paper's recipe, checkpoints, exact resumption.

A run interrupted at any moment and started again gives the same losses as one that wasn't: model,
optimiser, averaged weights, place in the data and random states are all in `last.pt`.
"""

import argparse
import csv
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import sacrebleu
import sentencepiece
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import checkpoints, runtime
from .batching import Batch, collate, training_batches
from .config import Config, load_config
from .errors import CheckpointError, ReproError, TrainingError
from .models import build, count_parameters, start_from
from .objectives import kl_weight, learning_rate
from .paths import ROOT, RunFolder
from .task import Task
from .validation import dev_scores

__all__ = ["Trainer", "main", "run_folder", "train", "train_command"]


def run_folder(config: Config) -> RunFolder:
    """The folder of the run that these settings describe."""
    return RunFolder(config.dataset.name, config.scale, config.model, config.train_data,
                     config.seed)


def train_command(config: Config, model: str | None = None) -> str:
    """The papermill line that trains a run."""
    return (f"papermill notebooks/02_train.ipynb OUT.ipynb -p model {model or config.model} "
            f"-p dataset {config.dataset.name} -p scale {config.scale} -p seed {config.seed}")


def train(config: Config, progress: bool = True,
          on_validation: Callable[[dict], None] | None = None) -> RunFolder:
    """Train a run to its end, from where it stopped if it was started before."""
    trainer = Trainer(config, progress)
    trainer.run(on_validation)
    return trainer.folder


class Trainer:
    """One run's whole state, between two steps."""

    def __init__(self, config: Config, progress: bool = True):
        self.config, self.settings, self.progress = config, config.training, progress
        self.folder, self.task = run_folder(config), Task(config)
        self.device, self.threads = runtime.device(), runtime.prepare()
        self.step = self.epoch = self.place = self.stale = 0
        self.best_bleu, self.seconds = -math.inf, 0.0
        self.history: list[dict] = []
        torch.manual_seed(config.seed)
        self.model = build(config.architecture, len(self.task.vocabulary),
                           self.settings.dropout).to(self.device)
        self.average = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), betas=self.settings.adam_betas, eps=self.settings.adam_epsilon,
            fused=True)
        self._groups: list = []
        self._sums: dict[str, list[float]] = {}  # term -> its sum, and the tokens it is over
        if self.folder.last.exists():
            self._resume()
        else:
            self._begin()
        if not self.finished or self._recorded() != self.config.as_dict():
            self._describe()

    # ---- starting, stopping, resuming ----

    def _begin(self) -> None:
        if self.settings.start_from:
            folder = RunFolder(self.config.dataset.name, self.config.scale,
                               self.settings.start_from, self.config.train_data, self.config.seed)
            made_by = train_command(self.config, self.settings.start_from)
            content = checkpoints.load(folder.best, made_by)
            checkpoints.check_vocabulary(content, self.task.vocabulary.fingerprint, folder.best)
            start_from(self.model, content["weights"])
        self._copy_to_average()

    def _recorded(self) -> dict:
        """The settings that config.json records, or nothing."""
        if not self.folder.config.exists():
            return {}
        recorded = json.loads(self.folder.config.read_text(encoding="utf-8"))
        return {name: recorded.get(name) for name in self.config.as_dict()}

    def _describe(self) -> None:
        """Write config.json: every resolved setting, and what the run runs on."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        described = {**self.config.as_dict(), "parameters": count_parameters(self.model),
                     "vocabulary": self.task.vocabulary.fingerprint,
                     "training_pairs": len(self.task.train), "device": str(self.device),
                     "threads": self.threads, "versions": _versions(), "commit": _commit()}
        _write(self.folder.config, json.dumps(described, indent=2, ensure_ascii=False) + "\n")

    def _resume(self) -> None:
        path = self.folder.last
        state = checkpoints.load(path, train_command(self.config))
        checkpoints.check_vocabulary(state, self.task.vocabulary.fingerprint, path)
        ours, theirs = self.config.as_dict(), state["config"]
        changed = [f"{section}.{key}" for section in ("dataset", "architecture", "training")
                   for key, value in ours[section].items()
                   if value != theirs[section].get(key) and key not in ("steps", "patience")]
        if changed:
            raise CheckpointError(
                f"{path} was trained with other settings of {', '.join(changed)}: restore them in "
                f"params/, or delete {path.parent} to start again")
        checkpoints.load_weights(self.model, state["weights"], path)
        self.average = {n: v.to(self.device) for n, v in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        for name in ("step", "epoch", "place", "stale", "best_bleu", "seconds", "history"):
            setattr(self, name, state[name])
        self._sums = state["sums"]
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_gpu"])
        self._write_history()

    def save(self) -> None:
        """Write `last.pt`, from which the run goes on."""
        gpu = torch.cuda.get_rng_state() if self.device.type == "cuda" else None
        names = ("step", "epoch", "place", "stale", "best_bleu", "seconds", "history")
        checkpoints.save(self.folder.last, {
            **{name: getattr(self, name) for name in names}, "sums": self._sums,
            "config": self.config.as_dict(), "vocabulary": self.task.vocabulary.fingerprint,
            "weights": self.model.state_dict(), "average": self.average,
            "optimiser": self.optimiser.state_dict(), "random": torch.get_rng_state(),
            "random_gpu": gpu})

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or dev BLEU stopped rising for `patience` validations."""
        out_of_patience = 0 < self.settings.patience <= self.stale
        return self.step >= self.settings.steps or out_of_patience

    # ---- the loop ----

    def run(self, on_validation: Callable[[dict], None] | None = None) -> None:
        """All remaining steps; `on_validation` is called with each new row of the history."""
        bar = tqdm(total=self.settings.steps, initial=self.step, disable=not self.progress,
                   desc=f"{self.config.model} {self.config.dataset.name}", unit="step",
                   mininterval=1.0)
        with bar:
            while not self.finished:
                started = time.perf_counter()
                terms = self.train_step()
                elapsed = time.perf_counter() - started
                self.seconds += elapsed
                tokens = terms.pop("tokens")
                speed = tokens / elapsed
                bar.update()
                shown = {k: f"{v / tokens:.3f}" for k, v in terms.items()}
                bar.set_postfix({**shown, "tokens/s": f"{speed:.0f}"}, refresh=False)
                if self.step % self.settings.validate_every == 0 or self.finished:
                    row = self.validate()
                    if on_validation is not None:
                        on_validation(row)

    def _order(self) -> list:
        """Groups of rows of the current epoch; seed and epoch decide them."""
        return training_batches(self.task.train, self.settings.batch_tokens, self.model.multiple,
                                self.config.seed, self.epoch)

    def _next_batch(self) -> Batch:
        self._groups = self._groups or self._order()
        if self.place == len(self._groups):
            self.epoch, self.place = self.epoch + 1, 0
            self._groups = self._order()
        rows = self._groups[self.place]
        self.place += 1
        return collate(self.task.train, rows, self.model.multiple).to(self.device)

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the summed loss terms and the number of tokens."""
        s = self.settings
        self.step += 1
        batches = [self._next_batch() for _ in range(s.accumulate)]
        weight = kl_weight(self.step, s.kl_start, s.kl_ramp)
        self._initialise(batches[0])
        self.model.train()
        tokens = sum(int(b.target_tokens.sum()) for b in batches)
        terms: dict[str, float] = {}
        self.optimiser.zero_grad(set_to_none=True)
        for batch in batches:
            with runtime.autocast(s.precision, self.device):
                losses = self.model.loss_terms(batch, s, weight)
            for name, value in losses.items():
                terms[name] = terms.get(name, 0.0) + float(value.detach())
            self._check_finite(terms)
            (losses["loss"] / tokens).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), s.clip_norm)
        if not torch.isfinite(norm):
            self._stop(f"the gradient's norm is {float(norm)}")
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, s.learning_rate, s.warmup_steps)
        self.optimiser.step()
        self._update_average()
        for name, value in terms.items():
            total = self._sums.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += terms["tokens"]
        return terms

    def _check_finite(self, terms: dict[str, float]) -> None:
        wrong = [name for name, value in terms.items() if not math.isfinite(value)]
        wrong = [name for name in wrong if name != "loss"] or wrong  # the parts say more
        if wrong:
            self._stop("loss term " + ", ".join(f"{name} is {terms[name]}" for name in wrong))

    def _stop(self, reason: str) -> None:
        good = f"last good checkpoint: {self.folder.last}" if self.folder.last.exists() else \
            "no checkpoint was written yet"
        raise TrainingError(
            f"step {self.step}: {reason}; {good}. Lower learning_rate or raise warmup_steps in "
            f"params/{self.config.scale}/{self.config.model}.yaml, or set precision: fp32")

    def _initialise(self, batch: Batch) -> None:
        """Data-dependent initialisation: the posterior at the first step, the prior with the KL."""
        if self.model.decoding == "stepwise":
            return
        for which, when in (("posterior", 1), ("prior", self.settings.kl_start + 1)):
            if self.step == when:
                self.model.eval()
                self.model.initialise(batch, which)
                self._copy_to_average()

    @torch.no_grad()
    def _copy_to_average(self) -> None:
        for name, value in self.model.named_parameters():
            self.average[name].copy_(value)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.average, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.values()),
                             [p.detach() for p in self.model.parameters()], 1 - decay)

    # ---- validation ----

    def averaged_weights(self) -> dict[str, Tensor]:
        """The weights that are evaluated: the moving average, with the model's buffers."""
        return {**self.model.state_dict(), **self.average}

    def validate(self) -> dict:
        """Score the averaged weights on dev, extend history.csv, and write the checkpoints."""
        s = self.settings
        dev = self.task.dev
        if len(dev) > s.dev_sentences:
            dev = dev.take(torch.arange(s.dev_sentences).numpy())
        references = self.task.references("dev")[:s.dev_sentences]
        own = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self._load(self.average)
        self.model.eval()
        with runtime.autocast(s.precision, self.device):
            scores = dev_scores(self.model, dev, self.task.vocabulary, references, s)
        self._load(own)
        self._sums.pop("tokens", None)
        row = {"step": self.step, "seconds": round(self.seconds, 3),
               **{f"train_{k}": v / n for k, (v, n) in self._sums.items()}, **scores,
               "learning_rate": learning_rate(self.step, s.learning_rate, s.warmup_steps),
               "kl_weight": kl_weight(self.step, s.kl_start, s.kl_ramp)}
        self._sums = {}
        self.history.append(row)
        better = row["dev_bleu"] > self.best_bleu and row["kl_weight"] == self._full_kl_weight()
        still_annealing = row["kl_weight"] < self._full_kl_weight()
        self.stale = 0 if better or still_annealing else self.stale + 1
        if better:
            self.best_bleu = row["dev_bleu"]
            checkpoints.save(self.folder.best, {
                "config": self.config.as_dict(), "vocabulary": self.task.vocabulary.fingerprint,
                "step": self.step, "dev_bleu": self.best_bleu, "weights": self.averaged_weights()})
        self.save()
        self._write_history()
        return row

    def _full_kl_weight(self) -> float:
        """The KL weight that a checkpoint must have been trained at to be chosen: the last one."""
        return kl_weight(self.settings.steps, self.settings.kl_start, self.settings.kl_ramp)

    @torch.no_grad()
    def _load(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(values[name])

    def _write_history(self) -> None:
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        temporary = self.folder.history.with_suffix(".tmp")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)
        os.replace(temporary, self.folder.history)


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__,
            "sentencepiece": sentencepiece.__version__, "sacrebleu": sacrebleu.__version__}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, check=False)
    return done.stdout.strip() or "unknown"


def main(arguments: list[str] | None = None) -> None:
    """Train one run from a shell: python -m lib.training --model tr_s --dataset toy."""
    parser = argparse.ArgumentParser(description="Train one run, or resume it.")
    for name, kind, default in (("model", str, "tr_s"), ("dataset", str, "toy"),
                                ("scale", str, "smoke"), ("train_data", str, "raw"),
                                ("seed", int, 1)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    asked = vars(parser.parse_args(arguments))
    try:
        train(load_config(**asked))
    except ReproError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
