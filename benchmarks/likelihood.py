"""Speed of the importance-weighted bound, and the share of the machine's matrix rate it reaches.

    make bench     (python -m benchmarks.likelihood)

Fl-S at scale mini and at its published IWSLT size, and Ga-B there: random weights, an 8K
vocabulary, Multi30k's sentence lengths. Rounds are interleaved, and each measures the matrix rate
anew on the same number of threads, so that a noisy machine hits all alike. What is timed is the
pass that metrics.json comes from, with fewer samples where K is large: its time grows with K,
everything else is done once a sentence. Writes outputs/bench/likelihood.csv.

    python -m benchmarks.likelihood --whole

Instead scores 1,000 sentences with Fl-S at scale mini and all 1,000 samples, once, a quarter of an
hour on two cores: outputs/bench/likelihood_whole.csv.
"""

import argparse
import time
from dataclasses import dataclass

import pandas as pd
import torch

from benchmarks.machine import describe, precision, rounds, write
from benchmarks.training import VOCABULARY, corpus
from lib import runtime
from lib.config import load_config
from lib.evaluation.scoring import TrainedRun, likelihoods
from lib.flops import matrix_flops
from lib.models import build
from lib.task import Task

ROUNDS = 3


@dataclass(frozen=True)
class Setting:
    """A model at a scale, the K that is reported, and what one round times."""

    model: str
    scale: str
    samples: int
    timed_samples: int
    sentences: int


SETTINGS = (Setting("fl_s", "mini", 1000, 64, 64), Setting("fl_s", "paper", 100, 32, 32),
            Setting("ga_b", "paper", 100, 32, 32))
WHOLE = Setting("fl_s", "mini", 1000, 1000, 1000)


class Subject:
    """One setting with its model and sentences, whose passes are timed."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.described = {"model": setting.model, "scale": setting.scale,
                          "samples": setting.samples}
        config = load_config(setting.model, "iwslt16_de_en", setting.scale)
        torch.manual_seed(0)
        model = build(config.architecture, VOCABULARY).to(runtime.device()).eval()
        self.run = TrainedRun(config, model, Task(config), 0, 0.0)
        data = corpus()
        self.data = data.take(data.by_length(setting.sentences))
        self.tokens = int((self.data.target_lengths + 1).sum())
        self.flops = 0

    def score(self, progress: bool = False) -> pd.DataFrame:
        """One pass over the sentences."""
        return likelihoods(self.run, self.data, self.setting.timed_samples, progress=progress)

    def count_flops(self) -> None:
        """Matrix FLOPs of a pass, as torch counts them; it also warms up.

        With one thread: torch counts in the thread that asks, not in those that score side by side.
        """
        torch.set_num_threads(1)
        self.flops = matrix_flops(self.score)

    def measure(self) -> dict[str, float]:
        """One timed pass; rates are those at the K that is reported."""
        setting = self.setting
        cpu, wall = time.process_time(), time.perf_counter()
        self.score()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        done = setting.sentences * setting.timed_samples / setting.samples
        return {"sentences_per_cpu_second": done / cpu, "sentences_per_second": done / wall,
                "cpu_microseconds_per_token_and_sample":
                    1e6 * cpu / self.tokens / setting.timed_samples,
                "flops_per_cpu_second": self.flops / cpu}


def speed(settings: tuple[Setting, ...] = SETTINGS, count: int = ROUNDS) -> pd.DataFrame:
    """Median over interleaved rounds, a row a setting and number of threads."""
    most = runtime.prepare()
    subjects = [Subject(setting) for setting in settings]
    for subject in subjects:
        subject.count_flops()
    return rounds(subjects, count, sorted({1, most}))


def whole(setting: Setting = WHOLE) -> pd.DataFrame:
    """One pass of all samples on all cores, with its progress: a row with its `seconds`."""
    threads = runtime.prepare()
    subject = Subject(setting)
    started = time.perf_counter()
    subject.score(progress=True)
    return pd.DataFrame([{
        "model": setting.model, "scale": setting.scale, "samples": setting.timed_samples,
        "sentences": setting.sentences, "threads": threads,
        "seconds": time.perf_counter() - started,
        "precision": precision(), "machine": describe()}])


def main() -> None:
    """Measure, write the table to outputs/bench/, and show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true",
                        help="a whole pass of Fl-S at mini instead, a quarter of an hour")
    if parser.parse_args().whole:
        write("likelihood_whole", whole())
    else:
        write("likelihood", speed())


if __name__ == "__main__":
    main()
