"""Run folders with results that were made up, for tests of what is read from them, and copies of
the committed ones.
"""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sacrebleu.metrics import BLEU

from lib.bleu import bleu_statistics
from lib.config import LATENT, family_of
from lib.evaluation.scoring import accountings
from lib.paths import ROOT
from lib.runs import RunFolder
from lib.training.history import Validations

WORDS = [f"w{i}" for i in range(60)]
TOKENS = ["a", "the", "dog", "cat", "sees", "runs", ",", ".", "red", "Blue", "house's", "3.5", "&",
         "--", '"x"', "über"]


def shipped(model: str) -> Path:
    """The folder of the committed run on toy/smoke; skips where its weights aren't there."""
    folder = ROOT / "outputs/runs/toy/smoke" / model / "raw/s1"
    if not (folder / "checkpoints/best.pt").exists():
        pytest.skip(f"no committed run of {model} on toy/smoke: make demo")
    return folder


def committed(model: str, *leave_out: str) -> RunFolder:
    """A copy of the `shipped` run in the outputs of now, without the files of such names."""
    run = RunFolder("toy", "smoke", model)
    shutil.copytree(shipped(model), run.path, ignore=shutil.ignore_patterns(*leave_out))
    return run


def made_up_references(lines: int = 200) -> list[str]:
    """Sentences of 5 to 12 words."""
    rng = random.Random(7)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) for _ in range(lines)]


def made_up_run(model: str, wrong: float, nats: float, train_data: str = "raw", seed: int = 1, *,
                released: float | None = None, k0_wrong: float | None = None,
                mbr_wrong: float | None = None, parameters: int = 1000,
                references: list[str] | None = None, dataset: str = "toy",
                scale: str = "smoke") -> RunFolder:
    """A run whose words are wrong with probability `wrong` and cost `nats` each.

    released: mean of the released estimate (latent models; default: that of the nats).
    k0_wrong: what `wrong` is before any refinement (default: the same).
    mbr_wrong: what it is of minimum Bayes risk (default: that wasn't run).
    """
    references = references or made_up_references()
    run = RunFolder(dataset, scale, model, train_data, seed)
    run.path.mkdir(parents=True)
    latent = family_of(model) in LATENT
    first = wrong if k0_wrong is None else k0_wrong
    settings = {"k0": first, "k1": wrong, "k4": wrong} if latent else {
        "greedy": wrong, "beam4": wrong}
    headline = list(settings)[-1]
    settings |= {} if mbr_wrong is None else {"mbr16-chrf": mbr_wrong}
    lines = {name: _noisy(references, share, f"{model}{train_data}{seed}")
             for name, share in settings.items()}
    tokens = np.array([len(line.split()) + 1 for line in references])
    rng = np.random.default_rng([seed, *map(ord, model + train_data)])
    frame = pd.DataFrame({
        "hypothesis": lines[headline], "n_tokens": tokens,
        "n_tokens_padded": 4 * np.ceil(tokens / 4).astype(int) if latent else tokens,
        "n_chars": [len(line) for line in references],
        "log_prob": -nats * tokens + rng.normal(0, 0.1, len(tokens)), "log_p_length": 0.0,
        "elbo": -nats * tokens if latent else np.nan,
        "released_estimate": np.nan, "effective_sample_size": np.nan})
    if mbr_wrong is not None:
        frame["hypothesis_mbr"] = lines["mbr16-chrf"]
    if latent:
        per_token = -nats if released is None else released
        frame["released_estimate"] = per_token + rng.normal(0, 0.02, len(tokens))
    metrics = {
        "model": model, "family": family_of(model), "dataset": dataset, "scale": scale,
        "train_data": train_data, "seed": seed, "parameters": parameters,
        "bleu": {name: _bleu(text, references) for name, text in lines.items()},
        "headline": headline, "log_likelihood": accountings(frame, 1), "diagnostics": {},
        "speed": {}, "test_set": {"name": "test", "lines": len(references)}}
    run.metrics.write_text(json.dumps(metrics), encoding="utf-8")
    frame.to_csv(run.sentences, index=False)
    np.savez(run.bleu_counts, **{name: bleu_statistics(text, references)
                                 for name, text in lines.items()})
    steps = np.arange(1, 7)
    pd.DataFrame({"step": steps, "dev_ll": -nats - 1 / steps,
                  "dev_bleu": 40 * (1 - wrong) - 5 / steps + rng.normal(0, 0.3, 6)}
                 ).to_csv(run.history, index=False)
    return run


def made_up_validations(references: list[str], checkpoints: int = 5, noise: float = 0.0,
                        ) -> tuple[Validations, list[list[str]]]:
    """Validations after steps 10, 20, ..., each with a nat a token and one more first word of
    every line lost, and their hypotheses. noise: of the nats, from sentence to sentence.
    """
    rng = np.random.default_rng(0)
    tokens = np.array([len(line.split()) + 1 for line in references])
    texts = [[" ".join(line.split()[lost:]) for line in references] for lost in range(checkpoints)]
    nats = np.arange(1, checkpoints + 1)[:, None] + noise * rng.normal(
        size=(checkpoints, len(references)))
    kept = Validations(10 * np.arange(1, checkpoints + 1), tokens, -nats * tokens,
                       np.stack([bleu_statistics(lines, references) for lines in texts]))
    return kept, texts


def _noisy(references: list[str], share: float, name: str) -> list[str]:
    rng = random.Random(name)
    return [" ".join(rng.choice(WORDS) if rng.random() < share else word for word in line.split())
            for line in references]


def _bleu(lines: list[str], references: list[str]) -> dict:
    return {"score": BLEU().corpus_score(lines, [references]).score, "signature": "sig",
            "chrf": 50.0}


def noisy_lines(lines, noise, seed):
    rng = random.Random(seed)
    references = [" ".join(rng.choices(TOKENS, k=rng.randint(1, 14))) for _ in range(lines)]
    hypotheses = [" ".join(rng.choice(TOKENS) if rng.random() < noise else word
                           for word in line.split() if rng.random() > 0.1) for line in references]
    return hypotheses, references


def scored_sentences(hypotheses, log_prob, latent=False):
    lines = len(hypotheses)
    return pd.DataFrame({
        "hypothesis": hypotheses, "n_tokens": np.arange(1, lines + 1),
        "n_tokens_padded": 4 * np.ceil(np.arange(1, lines + 1) / 4).astype(int),
        "n_chars": 10, "log_prob": log_prob, "log_p_length": -0.5 if latent else 0.0,
        "elbo": np.nan, "released_estimate": -1.5 if latent else np.nan,
        "effective_sample_size": np.nan,
    })
