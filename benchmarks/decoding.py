"""Decoding speed of every family, beside CTranslate2's beam search with the same weights.

    make bench     (python -m benchmarks.decoding)

Published IWSLT sizes, an 8K vocabulary, random weights, Multi30k's sentence lengths, one thread.
Random weights know no end, so all systems are made to write outputs of the reference's length: beam
search takes that many steps in ours and in CTranslate2, latent models get that padded length and
take every refinement step. Batches of 32 hold sentences of one target length, so that nobody waits
for a longer neighbour. Passes are interleaved. Writes outputs/bench/decoding.csv (sentences a
second), latency.csv (milliseconds against target length, batch size 1), and weights.csv (what fewer
bits cost in BLEU, of the trained runs that there are).
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from benchmarks import ctranslate2
from benchmarks.given_length import controlled, never_ending
from benchmarks.machine import describe, write
from benchmarks.training import VOCABULARY, corpus
from lib import runtime
from lib.batching import Tokenised
from lib.bleu import bleu, resample_weights, resampled_bleu, with_interval
from lib.config import load_config
from lib.decoding import Options
from lib.decoding.frozen import freeze
from lib.errors import ReproError
from lib.evaluation import speed
from lib.evaluation.scoring import load_run
from lib.models import build, count_parameters
from lib.training.validation import translate

SETTINGS = {"tr_s": ("greedy", "beam4"), "ga_b": ("k0", "k1", "k4"), "fl_s": ("k0", "k1")}
TRAINED = (("toy", "smoke"), ("multi30k_de_en", "mini"))  # runs whose BLEU is taken, where trained
ALONE, TOGETHER, SIZE, ROUNDS = 20, 4, 32, 5


def random_model(name: str, dataset: str = "iwslt16_de_en", scale: str = "paper",
                 vocabulary: int = VOCABULARY) -> torch.nn.Module:
    """Random weights that know no end; what starts at zero is moved away from it."""
    torch.manual_seed(0)
    made = build(load_config(name, dataset, scale).architecture, vocabulary).eval()
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            if key.endswith(".g"):
                parameter.fill_(0.3)
    return never_ending(made) if made.decoding == "stepwise" else made


def groups(data: Tokenised, alone: int, together: int, size: int) -> list[np.ndarray]:
    """Rows of `alone` single sentences, then of `together` batches of `size` sentences.

    Target lengths are evenly spaced quantiles of the corpus; a batch has one target length.
    """
    same = [np.flatnonzero(data.target_lengths == data.target_lengths[row])[:size]
            for row in data.by_length(together)]
    return [*data.by_length(alone)[:, None], *same]


def outside(transformer: torch.nn.Module, folder: Path, weights: str,
            device: str = "cpu") -> speed.System:
    """CTranslate2's beam search with a Transformer's weights."""
    engine = ctranslate2.Engine(ctranslate2.export(transformer, folder / weights), weights, device)

    def translate(given: speed.Work) -> Sequence[Sequence[int]]:
        mask = torch.ones_like(given.source, dtype=torch.bool) if given.mask is None else given.mask
        rows = [ids[real][:-1].tolist()
                for ids, real in zip(given.source.cpu(), mask.cpu(), strict=True)]
        return engine.translate(rows, 4, given.length)[0]

    return speed.System("ctranslate2", "beam4", weights, count_parameters(transformer), translate)


def systems(names: Sequence[str], folder: Path) -> list[speed.System]:
    """Ours in the machine's own precision and in int8, and CTranslate2 where it is installed."""
    rows = []
    for name in names:
        made = random_model(name)
        rows += [controlled(name, made, setting, weights)
                  for weights in ("auto", "int8") for setting in SETTINGS[name]]
        if made.decoding == "stepwise" and ctranslate2.is_installed():
            rows += [outside(made, folder, weights) for weights in ("float32", "int8")]
    return rows


def run(alone: int = ALONE, together: int = TOGETHER, size: int = SIZE, rounds: int = ROUNDS,
        ) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sentences a second of every system, and latencies."""
    runtime.prepare(batch=1)
    data = corpus()
    works = speed.work(data, groups(data, alone, together, size))
    with tempfile.TemporaryDirectory() as folder:
        times = speed.measure(systems(tuple(SETTINGS), Path(folder)), works, rounds)
    rates = speed.speeds(times)
    rates["threads"], rates["machine"] = torch.get_num_threads(), describe()
    return rates, speed.latencies(times)


def cost(names: Sequence[str] = tuple(SETTINGS), lines: int = 0) -> pd.DataFrame:
    """BLEU on the test set with weights of 32, 16 and 8 bits; `lines`: only the first so many.

    `delta`: minus that with 32 bits, with its 95% interval over paired resamples of the test
    sentences.
    """
    rows = []
    for dataset, scale in TRAINED:
        for name in names:
            config = load_config(name, dataset, scale)
            try:
                trained = load_run(config)
                data, references = trained.task.test, trained.task.references("test")
            except ReproError:
                continue  # no such run here, or not its corpus
            data = data.take(np.arange(lines or len(data)))
            resamples = resample_weights(len(data))
            for setting in SETTINGS[name]:
                plain = None
                for weights in ("fp32", "bf16", "int8"):
                    texts = translate(freeze(trained.model, weights), data,
                                      trained.task.vocabulary, [setting],
                                      Options(config.evaluation.length_penalty),
                                      progress=f"{dataset} {name} {setting} {weights}")[setting]
                    score, signature = bleu(texts, references[:len(data)])
                    drawn = resampled_bleu(texts, references[:len(data)], resamples)[1]
                    plain = plain or (score.score, drawn)
                    rows.append({"dataset": dataset, "scale": scale, "model": name,
                                 "setting": setting, "weights": weights, "bleu": score.score,
                                 **with_interval("delta", score.score - plain[0],
                                                 drawn - plain[1]),
                                 "lines": len(data), "signature": signature})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, write outputs/bench/, and show the tables."""
    rates, latency = run()
    write("decoding", rates, hidden=["machine", "parameters", "rounds", "threads"])
    write("latency", latency)
    write("weights", cost(), hidden=["signature"])
    if not ctranslate2.is_installed():
        tqdm.write("CTranslate2 isn't installed: without it there is no yardstick from outside "
                   "(pip install -e '.[speed]')")


if __name__ == "__main__":
    main()
