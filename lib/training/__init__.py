"""Training of any family: the paper's recipe, checkpoints, exact resumption, many processes.

    torchrun --nproc-per-node 8 -m lib.training --model fl_b --dataset wmt14_en_de --scale paper

A step is `accumulate` batches, whoever computes them: one process all of them, N processes their
shares. Each batch's random numbers come from (seed, step, its place in the step) alone. So the
losses depend neither on the number of processes nor on interruptions: model, optimiser, averaged
weights and place in the data are all in `last.pt`.
"""

import argparse
import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib import runtime
from lib.batching import Batch, collate, collate_fixed, training_batches
from lib.config import Config, config_of, run_arguments
from lib.errors import CheckpointError, TrainingError, one_line_errors
from lib.layers import compile_layers
from lib.models import build, count_parameters, start_from
from lib.objectives import kl_weight, learning_rate
from lib.paths import remove_leftovers
from lib.runs import RunFolder, run_folder
from lib.task import Task
from lib.training import checkpoints, parallel, record
from lib.training.averaging import WeightAverage
from lib.training.history import BEST_BY, Validations, best, ended_by, read_rows, write_rows
from lib.training.lock import RunLock
from lib.training.step import FixedStep, Scalars, takes_fixed_shapes
from lib.training.validation import dev_scores

__all__ = ["Trainer", "main", "train", "train_in_processes"]

# What a checkpoint holds of the trainer besides the optimisation's tensors: plain numbers, the
# history's rows and the terms of their dev sentences.
STATE = ("step", "epoch", "place", "seconds", "tokens", "history", "sentences", "sums")


def train(config: Config, progress: bool = True,
          on_validation: Callable[[dict], None] | None = None) -> RunFolder:
    """Train a run to its end, from where it stopped if it was started before."""
    trainer = Trainer(config, progress)
    trainer.run(on_validation)
    return trainer.folder


class Trainer:
    """One run's whole state, between two steps."""

    def __init__(self, config: Config, progress: bool = True):
        self.config = config
        self.settings = s = config.training
        self.progress = progress and parallel.is_first()
        self.folder, self.task = run_folder(config), Task(config)
        self.device, self.threads = runtime.device(), runtime.prepare()
        self._places = parallel.share(range(s.accumulate))  # own batches of a step
        self._positions = s.accumulate * s.batch_tokens  # of a step of fixed shape
        self._last_kl_weight = kl_weight(s.steps, s.kl_start, s.kl_ramp)  # of what may be the best
        self.step = self.epoch = self.place = 0
        self.seconds = self.tokens = 0.0  # target subwords trained on, each sentence with one EOS
        self.history: list[dict] = []
        self.sentences: list[dict[str, Tensor]] = []  # of each row, its dev sentences
        self.sums: dict[str, list[float]] = {}  # term -> its sum, and the tokens it is over
        with parallel.first_goes_ahead():  # it makes the caches that the others then read
            self.data, self.dev = self.task.train, self.task.dev
            self.task.check_test()
        self.dev = self.dev.take(np.arange(min(len(self.dev), s.dev_sentences)))
        torch.manual_seed(config.seed)
        vocabulary = len(self.task.vocabulary)
        self.model = build(config.architecture, vocabulary, s.dropout).to(self.device)
        if s.compile and self.device.type == "cuda":
            compile_layers(self.model)
        self.impossible = self.model.impossible(self.data)
        self.average = WeightAverage(self.model, s.average)
        captured = self.device.type == "cuda" and takes_fixed_shapes(s, self.device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), betas=s.adam_betas,
                                          eps=s.adam_epsilon, fused=True, capturable=captured)
        self.kept: dict[str, dict] = {}  # the first process's: what best.pt and best_ll.pt hold
        self._groups: list = []
        self._replica: nn.Module | None = None
        self._seen: tuple | None = None  # last.pt as it was read or written
        self._broken = False  # in the middle of a step or a validation
        parent = self._parent()
        self.reads = record.fingerprints(self.task, s.dev_sentences, parent)
        if self.folder.last.exists():
            self._resume()
        else:
            self._begin(parent)
        self._fixed = self._new_fixed()

    # ---- starting, stopping, resuming ----

    def _parent(self) -> dict[str, Tensor] | None:
        """The weights that the run starts from; a run that has begun can do without them."""
        if not self.settings.start_from:
            return None
        folder = RunFolder(self.config.dataset.name, self.config.scale, self.settings.start_from,
                           self.config.train_data, self.config.seed)
        if self.folder.last.exists() and not folder.best.exists():
            return None
        content = checkpoints.load(folder.best, folder.train_command)
        checkpoints.check_vocabulary(content, self.task.vocabulary.fingerprint, folder.best)
        return content["weights"]

    def _begin(self, parent: dict[str, Tensor] | None) -> None:
        record.check_free(self.folder, self.config)
        if parent is not None:
            start_from(self.model, parent)
        self.average.restart()

    def _resume(self) -> None:
        path = self.folder.last
        state = checkpoints.load(path, self.folder.train_command)
        checkpoints.check_vocabulary(state, self.task.vocabulary.fingerprint, path)
        checkpoints.check_settings(state, self.config.as_dict(), path)
        recorded = state.get("reads", {})  # none in a checkpoint older than this record
        record.check_reads(recorded, self.reads, self.folder.path)
        self.reads = self.reads | recorded
        checkpoints.load_weights(self.model, state["weights"], path)
        self.average.values = {n: v.to(self.device) for n, v in state["average"].items()}
        self._load_optimiser(state["optimiser"])
        for name in STATE:
            setattr(self, name, state.get(name, 0.0))  # `tokens` isn't in an older checkpoint
        if self.step > self.settings.steps:
            raise CheckpointError(
                f"{self.folder.path} has {self.step} steps already, and steps = "
                f"{self.settings.steps} asks for fewer: raise it, delete {self.folder.path} to "
                f"start again, or {record.KEEP_BOTH}")
        self.kept = {by: content for by, content in state.get("kept", {}).items()
                     if parallel.is_first() and content["step"] == self.best_row(by).get("step")}
        self._groups, self._replica, self._seen = [], None, self._stamp()

    def _load_optimiser(self, state: dict) -> None:
        """Its moments; how they are computed is this device's choice, not the checkpoint's."""
        own = [{key: group[key] for key in ("lr", "capturable")}
               for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state)
        for group, settings in zip(self.optimiser.param_groups, own, strict=True):
            group.update(settings)

    def save(self) -> None:
        """Write `last.pt`, from which the run goes on."""
        self.settle()
        checkpoints.save(self.folder.last, {
            **{name: getattr(self, name) for name in STATE},
            "config": self.config.as_dict(), "vocabulary": self.task.vocabulary.fingerprint,
            "reads": self.reads, "kept": self.kept, "weights": self.model.state_dict(),
            "average": self.average.values, "optimiser": self.optimiser.state_dict()})
        self._seen = self._stamp()

    def _stamp(self) -> tuple | None:
        """What tells one last.pt from another: each is a new file."""
        if not self.folder.last.exists():
            return None
        state = self.folder.last.stat()
        return state.st_ino, state.st_mtime_ns, state.st_size

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the first process hold the run's lock, at the state that it was left in.

        Errors: TrainingError where another training holds it, and where the last `run` ended in
        the middle of a step before there was a checkpoint.
        """
        lock = RunLock(self.folder.checkpoints / "lock")
        if refusal := parallel.from_first(lock.take):
            raise TrainingError(refusal)
        try:
            if parallel.from_first(self._must_resume):
                self._resume()
                self._fixed, self._broken = self._new_fixed(), False
            parallel.from_first(self._make_ready)
            yield
        finally:
            lock.release()

    def _must_resume(self) -> bool:
        """Whether the state of last.pt is to take the place of this one."""
        if self._broken and not self.folder.last.exists():
            raise TrainingError(f"step {self.step} was interrupted before the first checkpoint: "
                                "make a new Trainer, which starts from the beginning")
        return self._broken or self._stamp() not in (None, self._seen)

    def _make_ready(self) -> None:
        """Bring the folder's files to the state that training goes on from."""
        for path in (self.folder.last, *self._kept_files().values(), self.folder.config,
                     self.folder.history, self.folder.validations):
            remove_leftovers(path)
        if not self.finished:
            record.write(self.folder, self.config, {
                "parameters": count_parameters(self.model), "reads": self.reads,
                "vocabulary": self.task.vocabulary.fingerprint, "training_pairs": len(self.data),
                "impossible_pairs": self.impossible,
                "device": str(self.device), "threads": self.threads})
        if not self.history:
            return
        self._write_history()
        for by, path in self._kept_files().items():
            if not self.best_row(by):
                path.unlink(missing_ok=True)  # of an earlier KL weight
            elif by in self.kept or not path.exists():
                self._restore(by, path)  # also over one of a validation that last.pt doesn't know

    def _nothing_is_left(self) -> bool:
        """Whether the run is finished and all of its files are there."""
        return not self._broken and self.finished and self.folder.best.exists() and len(
            read_rows(self.folder.history)) == len(self.history)

    def _kept_files(self) -> dict[str, Path]:
        """Where the best weights by dev BLEU and by dev LL lie; for flows they part."""
        return {"bleu": self.folder.best, "ll": self.folder.best_ll}

    def _restore(self, by: str, path: Path) -> None:
        """Write the best weights again, which were lost.

        Errors: CheckpointError for best.pt of a finished run whose last.pt hasn't its weights.
        """
        if by not in self.kept and self.best_row(by)["step"] == self.step:
            self.kept[by] = self._as_best(by)
        if by in self.kept:
            checkpoints.save(path, self.kept[by])
        elif self.finished and by == "bleu":
            raise CheckpointError(
                f"{path} is lost, and the weights of step {self.best_row(by)['step']} are "
                f"nowhere else: delete {self.folder.checkpoints} and train again")

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or `patience` validations raised neither dev BLEU nor LL."""
        return bool(ended_by(self.history, self.step, self.settings))

    def best_row(self, by: str = "bleu") -> dict:
        """The history's row of the checkpoint that is kept as the best, {} before any."""
        place = best(self.history, self._last_kl_weight, by)
        return {} if place is None else self.history[place]

    @property
    def best_bleu(self) -> float:
        """The best dev BLEU of a checkpoint that may be chosen, -inf before any."""
        return self.best_row().get("dev_bleu", -math.inf)

    # ---- the loop ----

    def run(self, on_validation: Callable[[dict], None] | None = None) -> None:
        """All remaining steps; `on_validation` is called with each new row of the history. After an
        interruption it goes on from there, or from last.pt if that was within a step.

        Errors: TrainingError where another process trains the run, a loss isn't finite, or the
        last call was interrupted before the first checkpoint.
        """
        if parallel.from_first(self._nothing_is_left):
            return
        with self._alone():
            self._remaining_steps(on_validation)

    def _remaining_steps(self, on_validation: Callable[[dict], None] | None) -> None:
        bar = tqdm(total=self.settings.steps, initial=self.step, disable=not self.progress,
                   desc=f"{self.config.model} {self.config.dataset.name}", unit="step",
                   mininterval=1.0)
        done = elapsed = 0.0  # tokens and seconds since the device was last waited for
        with bar:
            while not self.finished:
                started, self._broken = time.perf_counter(), True
                terms = self.train_step()
                due = self.step % self.settings.validate_every == 0 or self.finished
                if due:
                    self.settle()
                elapsed += time.perf_counter() - started
                done += terms["tokens"]
                bar.update()
                if self.settled:
                    self.seconds += elapsed
                    shown = {k: f"{v / terms['tokens']:.3f}" for k, v in terms.items()
                             if k != "tokens"}
                    bar.set_postfix({**shown, "tokens/s": f"{done / elapsed:.0f}"}, refresh=False)
                    done = elapsed = 0.0
                row = self.validate() if due else None
                self._broken = False
                if due and on_validation is not None:
                    on_validation(row)

    def _order(self) -> list:
        """Groups of rows of the current epoch: a batch each, or of fixed shapes a step."""
        how = self.model.multiple, self.config.seed, self.epoch
        if self._fixed is not None:
            return training_batches(self.data, self._positions, *how, fixed=True)
        return training_batches(self.data, self.settings.batch_tokens, *how)

    def _next_rows(self) -> np.ndarray:
        """The next batch's rows, the same in every process."""
        self._groups = self._groups or self._order()
        if self.place >= len(self._groups):  # beyond: a run that went on where groups are larger
            self.epoch, self.place = self.epoch + 1, 0
            self._groups = self._order()
        rows = self._groups[self.place]
        self.place += 1
        return rows

    def _tokens(self, rows: np.ndarray) -> int:
        """Target subwords of a batch, each sentence with one EOS."""
        offsets = self.data.target_offsets
        return int((offsets[rows + 1] - offsets[rows] + 1).sum())

    def _batch(self, rows: np.ndarray) -> Batch:
        return collate(self.data, rows, self.model.multiple).to(self.device)

    def train_step(self) -> dict[str, float | Tensor]:
        """One optimiser step; returns its summed loss terms and tokens, of all processes.

        Through CUDA graphs the terms are tensors that the device may not have computed yet.
        """
        s = self.settings
        self.step += 1
        weight = kl_weight(self.step, s.kl_start, s.kl_ramp)
        if self._fixed is not None:
            return self._fixed_step(self._fixed, weight)
        groups = [self._next_rows() for _ in range(s.accumulate)]
        tokens = sum(self._tokens(rows) for rows in groups)
        replica = self._replica_for(groups[0], weight)
        terms: dict[str, Tensor] = {}
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        for place in self._places:
            batch = self._batch(groups[place])
            runtime.seed(self.config.seed, self.step, place)
            with parallel.local(replica, last=place == self._places[-1]):
                with runtime.autocast(s.precision, self.device):
                    losses = replica(batch, s, weight)
                # DDP averages over processes what is to be a sum
                (losses["loss"] * parallel.processes() / tokens).backward()
            for name, value in losses.items():
                terms[name] = terms.get(name, 0.0) + value.detach().double()
        summed = parallel.totals(terms)
        self._check_finite(self.step, summed)
        self._update()
        self._add(summed)
        return summed

    @property
    def _rate(self) -> float:
        """This step's learning rate."""
        s = self.settings
        return learning_rate(self.step, s.learning_rate, s.warmup_steps,
                             s.kl_start if s.rate_restarts else 0)

    def _new_fixed(self) -> FixedStep | None:
        """What takes the steps on batches of fixed shapes, where those are taken at all."""
        if not takes_fixed_shapes(self.settings, self.device):
            return None
        return FixedStep(self.model, self.optimiser, self.average, self.settings, self.config.seed)

    def _fixed_step(self, fixed: FixedStep, weight: float) -> dict[str, float | Tensor]:
        """One optimiser step on batches of a fixed shape."""
        rows = self._next_rows()
        if due := self.model.initialisations(self.step, self.settings):
            self._initialise(rows, due)
            self.average.restart()
        tokens = self._tokens(rows)
        batches = partial(collate_fixed, self.data, rows, self.model.multiple, self._positions)
        terms = fixed(self.step, batches, Scalars(self._rate, weight, 1 / tokens,
                                                  self.average.decay_at(self.step)))
        if fixed.full:
            self.settle()
        return {**terms, "tokens": float(tokens)}

    @property
    def settled(self) -> bool:
        """Whether every step so far is known to be good."""
        return self._fixed is None or not self._fixed.unread

    def settle(self) -> None:
        """Take in the terms of steps under way. Errors: TrainingError where one isn't finite."""
        for logged in self._fixed.read() if self._fixed is not None else ():
            self._check_finite(logged.step, logged.terms)
            if not math.isfinite(logged.norm):
                self._stop(logged.step, f"the gradient's norm is {logged.norm}")
            self._add(logged.terms)

    def _add(self, terms: dict[str, float]) -> None:
        """Take a step's terms into the sums of the next row of the history."""
        for name, value in terms.items():
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += terms["tokens"]

    def _update(self) -> None:
        """Move the weights along the gradient, which is the same in every process."""
        s = self.settings
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), s.clip_norm)
        if not torch.isfinite(norm):
            self._stop(self.step, f"the gradient's norm is {float(norm)}")
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate
        self.optimiser.step()
        self.average.update(self.step)

    def _check_finite(self, step: int, terms: dict[str, float]) -> None:
        wrong = [name for name, value in terms.items() if not math.isfinite(value)]
        wrong = [name for name in wrong if name != "loss"] or wrong  # the parts say more
        if wrong:
            named = ", ".join(f"{name} is {terms[name]}" for name in wrong)
            self._stop(step, f"loss term {named}")

    def _stop(self, step: int, reason: str) -> None:
        good = f"last good checkpoint: {self.folder.last}" if self.folder.last.exists() else \
            "no checkpoint was written yet"
        raise TrainingError(
            f"step {step}: {reason}; {good}. Delete {self.folder.path} and start again with a "
            "lower learning_rate, more warmup_steps or precision: fp32 in "
            f"params/{self.config.scale}/{self.config.model}.yaml")

    def _replica_for(self, rows: np.ndarray, weight: float) -> nn.Module:
        """What gives this step's losses; anew where the weights or their use change outside Adam.

        The first process initialises what depends on data; the others get its weights.
        """
        due = self.model.initialisations(self.step, self.settings)
        if self._replica is None or due:
            self._replica = None  # one at a time: the old one's hooks go with it
            if due and parallel.is_first():
                self._initialise(rows, due)
            unused = self.model.latents and weight == 0
            self._replica = parallel.replicate(self.model, unused)
            if due:
                self.average.restart()
        return self._replica

    def _initialise(self, rows: np.ndarray, due: list[str]) -> None:
        """Data-dependent initialisation, from a batch."""
        runtime.seed(self.config.seed, self.step, self.settings.accumulate)
        self.model.eval()
        batch = self._batch(rows)
        for which in due:
            self.model.initialise(batch, which)

    # ---- validation ----

    def validate(self) -> dict:
        """Score the averaged weights on dev, extend history.csv, and write the checkpoints: the
        first process does, the others wait for the scores.
        """
        s = self.settings
        self.settle()
        scores, sentences = parallel.from_first(self._dev_scores)
        self.tokens += self.sums.pop("tokens", [0.0])[0]
        row = {"step": self.step, "seconds": round(self.seconds, 3), "tokens": int(self.tokens),
               **{f"train_{k}": v / n for k, (v, n) in self.sums.items()}, **scores,
               "learning_rate": self._rate,
               "kl_weight": kl_weight(self.step, s.kl_start, s.kl_ramp)}
        self.sums = {}
        self.history.append(row)
        self.sentences.append(sentences)
        if parallel.is_first():
            for by, path in self._kept_files().items():
                if self.best_row(by) is row:
                    self.kept[by] = self._as_best(by)
                    checkpoints.save(path, self.kept[by])
            self.save()
            self._write_history()
        return row

    def _as_best(self, by: str) -> dict:
        """What is kept where the averaged weights are those of the best validation."""
        row = self.best_row(by)
        return {"config": self.config.as_dict(), "vocabulary": self.task.vocabulary.fingerprint,
                "reads": self.reads, "step": self.step,
                **{name: row[name] for name in BEST_BY[by]},
                "weights": {name: value.detach().to("cpu", copy=True)
                            for name, value in self.average.weights().items()}}

    def _dev_scores(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        s = self.settings
        references = self.task.references("dev")[:s.dev_sentences]
        self.model.eval()
        with self.average.in_use(), runtime.autocast(s.precision, self.device):
            scores = dev_scores(self.model, self.dev, self.task.vocabulary, references, s,
                                self.config.dataset.bleu_tokenizer)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # for the runs beside this one: steps have memory of their own
        return scores

    def _write_history(self) -> None:
        if self.history:
            Validations(np.array([row["step"] for row in self.history]),
                        self.dev.target_lengths + 1,
                        *(torch.stack([terms[name] for terms in self.sentences]).numpy()
                          for name in ("log_prob", "counts"))).write(self.folder.validations)
        write_rows(self.folder.history, self.history)


# ---- from a shell, and in many processes ----

def train_in_processes(config: Config, processes: int, overrides: Mapping | None = None,
                       on_validation: Callable[[dict], None] | None = None) -> RunFolder:
    """`train` by `processes` processes of this machine, started by torchrun; waits for them.

    overrides: those that `config` was loaded with. `on_validation` is called with each new row of
    history.csv, its values as text. Errors: TrainingError with the processes' last words.
    """
    words = [f"--{name.replace('_', '-')}={value}" for name, value in (
        ("model", config.model), ("dataset", config.dataset.name), ("scale", config.scale),
        ("train_data", config.train_data), ("seed", config.seed),
        ("overrides", json.dumps(dict(overrides or {}))))]
    folder = run_folder(config)
    seen = len(read_rows(folder.history))

    def tell() -> None:
        nonlocal seen
        rows = read_rows(folder.history)
        for row in rows[seen:]:
            on_validation(row)
        seen = max(seen, len(rows))

    threads = max(1, runtime.cores() // processes)
    parallel.run(processes, ["-m", "lib.training", *words], threads,
                 tell if on_validation is not None else lambda: None)
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Train one run from a shell: python -m lib.training --model tr_s --dataset toy."""
    parser = argparse.ArgumentParser(description="Train one run, or resume it.")
    run_arguments(parser)
    parser.add_argument("--overrides", default="",
                        help="""single settings of params/, in JSON or YAML: '{"steps": 20}'""")
    asked = parser.parse_args(arguments)
    with parallel.joined(), one_line_errors(parallel.is_first()):  # the same in all processes
        train(config_of(asked))
