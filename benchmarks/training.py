"""Training speed of every family: tokens a CPU-second, and the share of the machine's matrix rate.

    make bench     (python -m benchmarks.training)

Published IWSLT sizes, an 8K vocabulary, random tokens at Multi30k's lengths. Rounds are
interleaved, so that a noisy machine hits all alike, and each round measures the matrix rate anew:
the share is of the same round. Writes outputs/bench/training.csv and memory.csv.
"""

import multiprocessing
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from benchmarks.machine import CPU, peak_memory, rounds, write
from lib import runtime
from lib.batching import Batch, Tokenised, collate, training_batches
from lib.config import MODELS, Architecture, load_config
from lib.flops import matrix_flops
from lib.models import build, count_parameters

VOCABULARY, TOKENS, ROUNDS, BATCHES = 8000, 2048, 3, 4
PLAIN = "torch.nn.Transformer"  # the baseline of Tr-S: same sizes, as torch comes, bf16 autocast

# Subwords a sentence of Multi30k de-en with 8K joint subwords: every twentieth quantile.
QUANTILES = ((3, 8, 9, 10, 10, 11, 12, 12, 13, 13, 14, 15, 15, 16, 17, 18, 19, 20, 22, 25, 53),
             (4, 8, 9, 10, 10, 11, 11, 12, 12, 13, 14, 14, 15, 15, 16, 17, 18, 19, 21, 23, 48))


def corpus(pairs: int = 4000, quantiles: Sequence[Sequence[int]] = QUANTILES,
           vocabulary: int = VOCABULARY, spread: float = 0.12) -> Tokenised:
    """Random tokens; lengths follow the quantiles, source and target alike long: `spread` is the
    deviation between their places.
    """
    rng = np.random.default_rng(0)
    place = rng.random(pairs)
    other = np.clip(place + rng.normal(0, spread, pairs), 0, 1)
    sides = []
    for where, of in zip((place, other), quantiles, strict=True):
        lengths = np.interp(where, np.linspace(0, 1, len(of)), of)
        lengths = np.maximum(1, np.round(lengths)).astype(np.int64)
        ids = rng.integers(4, vocabulary, lengths.sum(), dtype=np.int32)
        sides += [ids, np.concatenate([[0], np.cumsum(lengths)])]
    return Tokenised(*sides, np.arange(pairs))


class PlainTransformer(nn.Module):
    """Tr-S from torch's own layers, fused attention and cross-entropy over all logits."""

    multiple = 1

    def __init__(self, like: Architecture, vocabulary: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, like.d_model)
        self.body = nn.Transformer(like.d_model, like.heads, like.encoder_layers,
                                   like.encoder_layers, like.d_filter, dropout,
                                   batch_first=True, norm_first=True)

    def loss_terms(self, batch, training, kl_weight):
        """The mean cross-entropy's sum, as in `lib.models.Model`."""
        previous = F.pad(batch.target[:, :-1], (1, 0), value=1)
        padding = None if batch.source_mask is None else ~batch.source_mask
        causal = nn.Transformer.generate_square_subsequent_mask(previous.shape[1],
                                                                device=previous.device)
        states = self.body(self.embedding(batch.source), self.embedding(previous), tgt_mask=causal,
                           src_key_padding_mask=padding, memory_key_padding_mask=padding,
                           tgt_is_causal=True)
        logits = states @ self.embedding.weight.T
        loss = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), reduction="sum",
                               ignore_index=0)
        return {"loss": loss, "tokens": batch.target_tokens.sum()}


@torch.no_grad()
def initialise(model: nn.Module, batch: Batch) -> None:
    """What depends on data, where a model has any."""
    if hasattr(model, "initialise"):
        for which in ("posterior", "prior"):
            model.initialise(batch, which)


class Subject:
    """One model with its optimiser and batches, whose steps are timed."""

    def __init__(self, name: str, scale: str = "paper", tokens: int = TOKENS):
        config = load_config("tr_s" if name == PLAIN else name, "iwslt16_de_en", scale)
        torch.manual_seed(0)
        self.settings = config.training
        self.model = (PlainTransformer if name == PLAIN else build)(
            config.architecture, VOCABULARY, self.settings.dropout)
        self.described, self.flops = {"model": name}, 0
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-5, fused=True)
        data = corpus()
        groups = training_batches(data, tokens, self.model.multiple, 0, 0)[:BATCHES]
        self.batches = [collate(data, rows, self.model.multiple) for rows in groups]
        initialise(self.model, self.batches[0])

    def step(self, batch) -> int:
        """One optimiser step; returns its target tokens (real ones with one EOS)."""
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        with runtime.autocast("auto"):
            losses = self.model.loss_terms(batch, self.settings, 1.0)
        (losses["loss"] / losses["tokens"]).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return int(losses["tokens"])

    def count_flops(self) -> None:
        """Matrix FLOPs of all batches, forward and backward, as torch counts them."""
        self.flops = matrix_flops(lambda: [self.step(batch) for batch in self.batches])

    def measure(self) -> dict[str, float]:
        """One pass over the batches."""
        cpu, wall = time.process_time(), time.perf_counter()
        tokens = sum(self.step(batch) for batch in self.batches)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {"tokens_per_cpu_second": tokens / cpu, "tokens_per_second": tokens / wall,
                "flops_per_cpu_second": self.flops / cpu}


def speed(models: tuple[str, ...]) -> pd.DataFrame:
    """Median over interleaved rounds, a row a model."""
    most = runtime.prepare()
    subjects = [Subject(name) for name in models]
    for subject in subjects:
        subject.count_flops()
    result = rounds(subjects, ROUNDS, [most])
    result.insert(1, "parameters", [count_parameters(s.model) for s in subjects])
    plain = result.set_index("model")["tokens_per_cpu_second"][PLAIN]
    result["vs_plain"] = result["tokens_per_cpu_second"] / plain
    return result


def _memory(name: str, scale: str, tokens: int, answer) -> None:
    """In a process of its own: peak resident memory of two training steps."""
    runtime.prepare()
    subject = Subject(name, scale, tokens)
    for batch in subject.batches[:2]:
        subject.step(batch)
    answer.put(peak_memory(CPU) / 1024)


def memory() -> pd.DataFrame:
    """Peak memory of training: mini at its own batch size, paper scale at 1,024 tokens."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for scale in ("mini", "paper"):
        for name in tqdm(MODELS, desc=f"memory, {scale}"):
            own = load_config(name, scale=scale).training.batch_tokens
            tokens = 1024 if scale == "paper" else own
            answer = context.Queue()
            process = context.Process(target=_memory, args=(name, scale, tokens, answer))
            process.start()
            rows.append({"model": name, "scale": scale, "batch_tokens": tokens,
                         "vocabulary": VOCABULARY, "peak_gib": answer.get()})
            process.join()
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, write outputs/bench/, and show the tables."""
    write("training", speed((PLAIN, "tr_s", "ga_b", "fl_s")))
    write("memory", memory())


if __name__ == "__main__":
    main()
