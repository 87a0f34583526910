"""What a trained model writes for test sentences: after each refinement step, by each procedure."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from tqdm.auto import tqdm

from lib import runtime
from lib.batching import collate, evaluation_batches
from lib.decoding import Options, candidates
from lib.decoding.refinement import trace
from lib.evaluation.scoring import TrainedRun
from lib.likelihood import elbo
from lib.training.validation import translate

__all__ = ["outputs_by_setting", "refined_sentences", "some_lines"]

TOKENS = 1024  # of the longest side, with padding, that are decoded together


def some_lines(lines: int, count: int) -> Int[np.ndarray, " chosen"]:
    """`count` line numbers spread evenly over a test set; all of them where count is 0."""
    if count <= 0 or count >= lines:
        return np.arange(lines)
    return np.linspace(0, lines - 1, count).astype(np.int64)


@torch.no_grad()
def refined_sentences(run: TrainedRun, steps: int, *, samples: int = 10, sentences: int = 0,
                      progress: bool = True) -> pd.DataFrame:
    """Every test sentence (or `sentences` of them) after every step 0 ... `steps`, in fp32.

    Columns: line, k, hypothesis; in nats per sentence log_p_y and log_p_z, whose sum is the proxy
    bound, and elbo, the evidence lower bound of log p(y, T|x) of the hypothesis itself by `samples`
    draws; changed and lowered: whether this step changed the output, and lowered the proxy bound.
    `attrs["tokenizer"]`: the one that BLEU takes.
    """
    model, rows = run.model, []
    where = model.device
    lines = some_lines(len(run.task.test), sentences)
    data = run.task.test.take(lines)
    groups = evaluation_batches(data, TOKENS // 2, model.multiple)
    with runtime.autocast("fp32", where):
        for group in tqdm(groups, desc=f"refinement, {run.config.model}", disable=not progress,
                          leave=False):
            batch = collate(data, group, model.multiple).to(where)
            source, mask = batch.source, batch.source_mask
            traced = trace(model, source, mask, steps)
            strings = [list(of) for of in zip(*traced.hypotheses, strict=True)]
            bounds = candidates.importance_scores(model, source, mask, model.encode(source, mask),
                                                  strings, samples, 0, elbo)
            columns = {"log_p_y": traced.log_p_y, "log_p_z": traced.log_p_z, "elbo": bounds.T,
                       "changed": traced.changed, "lowered": traced.lowered}
            columns = {name: values.cpu().numpy() for name, values in columns.items()}
            for k, ids in enumerate(traced.hypotheses):
                texts = run.task.vocabulary.decode(ids)
                rows += [{"line": int(lines[row]), "k": k, "hypothesis": text}
                         | {name: values[k, place].item() for name, values in columns.items()}
                         for place, (row, text) in enumerate(zip(group, texts, strict=True))]
    table = pd.DataFrame(rows).sort_values(["k", "line"], ignore_index=True)
    table.attrs["tokenizer"] = run.config.dataset.bleu_tokenizer
    return table


def outputs_by_setting(run: TrainedRun, settings: Sequence[str], *,
                       teacher: TrainedRun | None = None, sentences: int = 0,
                       progress: bool = True) -> pd.DataFrame:
    """The test sentences (or `sentences` of them) under several decoding settings.

    Columns: line, and one a setting; `attrs` as in `refined_sentences`. teacher: what scores
    candidates for settings that ask for it.
    """
    lines = some_lines(len(run.task.test), sentences)
    where = run.model.device
    with runtime.autocast(run.config.training.precision, where):
        options = Options(run.config.evaluation.length_penalty,
                          teacher=None if teacher is None else teacher.model)
        outputs = translate(run.model, run.task.test.take(lines), run.task.vocabulary, settings,
                            options, progress=f"{run.config.model}, {len(settings)} settings"
                            if progress else None)
    table = pd.DataFrame({"line": lines} | outputs)
    table.attrs["tokenizer"] = run.config.dataset.bleu_tokenizer
    return table
