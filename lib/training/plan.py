"""What a run will do, and how long it will take, before it is started."""

import gc
import statistics
import time

from lib.config import Config
from lib.models import count_parameters
from lib.training import Trainer
from lib.training.step import takes_fixed_shapes

__all__ = ["training_plan"]


def training_plan(config: Config, steps: int = 4) -> dict[str, float | int | str]:
    """Parameters, device, threads and steps of a run; where steps are left, also `tokens a step`,
    `tokens a second` and `minutes left`, from `steps` timed ones.

    The steps are taken at the full KL weight by a trainer that is thrown away: nothing of them
    goes into the run. `minutes left` leaves out validations.
    """
    trial = Trainer(config, progress=False)
    plan = {"parameters": count_parameters(trial.model), "device": str(trial.device),
            "threads": trial.threads, "steps": config.training.steps, "steps done": trial.step}
    if trial.finished:
        return plan
    left = config.training.steps - trial.step
    trial.step = max(trial.step, config.training.kl_start)
    trial.train_step()  # initialises what depends on data, and warms up
    begin, tokens = trial.place, []
    if takes_fixed_shapes(config.training, trial.device):
        for _ in range(steps):  # whose shapes are captured now
            trial.train_step()
    trial.place, seconds = begin, []
    for _ in range(steps):
        trial.settle()
        started = time.perf_counter()
        tokens.append(float(trial.train_step()["tokens"]))
        trial.settle()  # waits for the device
        seconds.append(time.perf_counter() - started)
    del trial
    gc.collect()  # its graphs, too
    return plan | {"tokens a step": round(sum(tokens) / steps),
                   "tokens a second": round(sum(tokens) / sum(seconds)),
                   "minutes left": round(left * statistics.median(seconds) / 60, 2)}
