"""The whole experiment on the toy corpus, resumable, with progress: python -m lib.demo (make demo).

Every model is trained and evaluated by the notebooks 02 and 03, two at a time on two cores; then
01, 04 and 05 make the figures and tables. `--fresh` starts again.
"""

import argparse
import functools
import shutil
import sys
import time

from tqdm import tqdm

from . import runtime
from .config import MODELS, Config, load_config
from .errors import ReproError
from .gallery import write_gallery
from .paths import PARAMS, ROOT, RunFolder, cache_root, outputs_root
from .workflow import Event, Step, notebook_step, run_steps

__all__ = ["main", "plan"]

DATASET, SCALE = "toy", "smoke"
# Seconds on one core of two busy ones, for the time left: (02_train, 03_eval) by family.
SECONDS = {"autoregressive": (60.0, 25.0), "gaussian": (70.0, 25.0), "flow": (110.0, 40.0)}
SEVERAL = {"01_data": 15.0, "04_latent_space": 30.0, "05_correlation": 20.0, "sizes": 10.0}
DOING = {"eval": "evaluating"}


def plan() -> list[Step]:
    """Every step, in an order in which each needs only earlier ones."""
    configs = {model: load_config(model, DATASET, SCALE) for model in MODELS}
    ordered = sorted(MODELS, key=lambda model: bool(configs[model].training.start_from))
    steps = [step for model in ordered for step in _model_steps(model, configs[model])]
    folders = {model: RunFolder(DATASET, SCALE, model) for model in MODELS}
    shown = ("ga_b", "fl_b")  # the default of 04_latent_space
    table = outputs_root() / "tables" / "model_sizes.csv"
    params = tuple(sorted(PARAMS.glob("*/*.yaml")))
    return [
        *steps,
        _shared("01_data", inputs=(PARAMS / "datasets" / f"{DATASET}.yaml",)),
        Step("sizes", (sys.executable, "-m", "lib.sizes"), SEVERAL["sizes"], table, inputs=params),
        _shared("04_latent_space", needs=tuple(f"{m} train" for m in shown),
                inputs=tuple(folders[m].best for m in shown)),
        _shared("05_correlation", needs=tuple(f"{m} eval" for m in MODELS),
                inputs=tuple(folders[m].metrics for m in MODELS)),
    ]


def _model_steps(model: str, config: Config) -> list[Step]:
    """Training and evaluation of one model."""
    folder, parent = RunFolder(DATASET, SCALE, model), config.training.start_from
    parameters = {"model": model, "dataset": DATASET, "scale": SCALE}
    recipe = (PARAMS / SCALE / f"{model}.yaml", PARAMS / "datasets" / f"{DATASET}.yaml")
    train_seconds, eval_seconds = SECONDS[config.architecture.family]
    train, evaluation = f"{model} train", f"{model} eval"

    first = notebook_step(train, "02_train", folder.path / "02_train.ipynb", train_seconds,
                          parameters, needs=(f"{parent} train",) if parent else (), inputs=recipe,
                          makes=(folder.best, folder.last))
    second = notebook_step(evaluation, "03_eval", folder.path / "03_eval.ipynb", eval_seconds,
                           parameters, needs=(train,), inputs=(folder.best,),
                           makes=(folder.metrics, folder.sentences))
    return [first, second]


def _forget(steps: list[Step]) -> None:
    """Remove the runs, and what says that a step is done."""
    for model in MODELS:
        shutil.rmtree(RunFolder(DATASET, SCALE, model).path, ignore_errors=True)
    for step in steps:
        step.stamp.unlink(missing_ok=True)


def _shared(notebook: str, **others) -> Step:
    """A notebook on several runs; its executed copy is kept in the cache."""
    target = cache_root() / "steps" / f"{DATASET}-{SCALE}-{notebook}.ipynb"
    return notebook_step(notebook, notebook, target, SEVERAL[notebook],
                         {"dataset": DATASET, "scale": SCALE}, **others)


class Display:
    """What a person sees: a line for each step that ended, and a bar with the time left."""

    def __init__(self, steps: list[Step], slots: int):
        self.slots, self.started = slots, time.time()
        self.left = {step.name: step.seconds for step in steps}
        self.running: dict[str, float] = {}
        self.spent = self.foreseen = 0.0
        self.count, self.all = 0, len(steps)
        self.bar = tqdm(total=sum(self.left.values()), disable=not sys.stderr.isatty(),
                        bar_format="{percentage:3.0f}% |{bar:24}| {desc}", leave=False)

    def event(self, event: Event) -> None:
        """Show what happened."""
        name = event.step.name
        if event.kind == "started":
            self.running[name] = time.time()
            return
        self.running.pop(name, None)
        self.left.pop(name)
        self.count += 1
        if event.kind == "done":
            self.spent += event.seconds
            self.foreseen += event.step.seconds
        said = {"kept": "was done already", "done": f"{event.seconds:.0f} s",
                "failed": f"FAILED: {event.reason}",
                "skipped": f"left out: it needs {event.reason}"}[event.kind]
        tqdm.write(f"[{self.count:2d}/{self.all}] {name:<16} {said}")
        if event.kind == "failed":
            where = event.step.work if event.step.work and event.step.work.exists() \
                else event.step.log
            tqdm.write(f"         see {where}")

    def tick(self) -> None:
        """Draw the bar again."""
        now = time.time()
        pace = self.spent / self.foreseen if self.foreseen else 1.0
        left = sum(max(0.1 * seconds, pace * seconds - (now - self.running.get(name, now)))
                   for name, seconds in self.left.items()) / self.slots
        passed = now - self.started
        self.bar.n = self.bar.total * passed / (passed + left) if self.left else self.bar.total
        doing = ", ".join(_doing(*item) for item in self.running.items()) or "starting"
        minutes, seconds = divmod(round(left), 60)
        self.bar.set_description_str(f"about {minutes}:{seconds:02d} left: {doing}")

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


@functools.cache
def _steps_of(model: str) -> int:
    return load_config(model, DATASET, SCALE).training.steps


def _doing(name: str, since: float) -> str:
    """A running step in words, with a training's progress as its history tells it."""
    model, _, kind = name.partition(" ")
    if kind != "train":
        return f"{model} {DOING.get(kind, '')}".strip()
    history, step = RunFolder(DATASET, SCALE, model).history, "0"
    if history.exists() and history.stat().st_mtime >= since:
        rows = history.read_text(encoding="utf-8").split("\n")
        step = next((row.partition(",")[0] for row in reversed(rows) if row[:1].isdigit()), step)
    return f"{model} training {step}/{_steps_of(model)}"


def main(arguments: list[str] | None = None) -> int:
    """Run what isn't done yet; 1 if anything failed, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="forget the old runs, start again")
    parser.add_argument("--jobs", type=int, default=min(8, runtime.cores()),
                        help="processes at a time (default: one a core, 8 at most)")
    asked = parser.parse_args(arguments)
    tqdm.monitor_interval = 0  # no thread of tqdm's beside the processes that are started
    started = time.monotonic()
    try:
        steps = plan()
        print(f"The whole experiment on {DATASET} at scale {SCALE}: {len(MODELS)} models, "
              f"{max(1, asked.jobs)} at a time. Stop it whenever you like; the same command goes "
              "on.", flush=True)
        if asked.fresh:
            _forget(steps)
        display = Display(steps, max(1, asked.jobs))
        try:
            events = run_steps(steps, max(1, asked.jobs), display.event, display.tick)
        finally:
            display.close()
        gallery = write_gallery()
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the last checkpoints.")
        return 130
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = [event for event in events if event.kind in ("failed", "skipped")]
    took = f"{(time.monotonic() - started) / 60:.1f} minutes"
    print(f"{'Failed' if failed else 'Done'} after {took}.")
    if failed:
        print("What failed is named above; the same command tries it again, `--fresh` starts "
              "from nothing.")
        return 1
    root = outputs_root()
    for what, where in (("figures, tables and runs in one page", gallery),
                        ("tables", root / "tables"), ("figures", root / "figures"),
                        ("runs, with their executed notebooks", root / "runs" / DATASET / SCALE)):
        shown = where.relative_to(ROOT) if where.is_relative_to(ROOT) else where
        print(f"  {what}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
