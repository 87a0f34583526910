"""Scores on a tokenised split that training and evaluation share: loss terms, LL terms, search."""

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.batching import Tokenised, collate, evaluation_batches
from lib.bleu import bleu, bleu_statistics
from lib.config import Training
from lib.decoding import hypotheses
from lib.likelihood import iw_bound
from lib.subword import Vocabulary

__all__ = ["dev_scores", "translate"]


@torch.no_grad()
def translate(model, data: Tokenised, vocabulary: Vocabulary, settings: list[str],
              batch_tokens: int, length_penalty: float = 0.6,
              progress: str | None = None, **options) -> dict[str, list[str]]:
    """Detokenised hypotheses of every setting, in corpus order. Targets aren't looked at.

    `options` are those of `decoding.hypotheses`: `seed`, `teacher`.
    """
    where = next(model.parameters()).device
    lines = {s: [""] * len(data) for s in settings}
    groups = evaluation_batches(data, batch_tokens, model.multiple)
    for rows in tqdm(groups, desc=progress, disable=progress is None, leave=False):
        batch = collate(data, rows, model.multiple).to(where)
        found = hypotheses(model, batch.source, batch.source_mask, settings, length_penalty,
                           vocabulary=vocabulary, **options)
        for setting, ids in found.items():
            for row, line in zip(rows, vocabulary.decode(ids), strict=True):
                lines[setting][row] = line
    return lines


@torch.no_grad()
def dev_scores(model, data: Tokenised, vocabulary: Vocabulary, references: list[str],
               training: Training) -> tuple[dict[str, float], dict[str, Tensor]]:
    """`dev_*` loss terms and `dev_ll` in nats per token (with one EOS), and `dev_bleu`; and what
    the last two are sums of, `log_prob` [sentences] and `counts` [sentences, 10] as in
    `history.Validations`.

    `dev_ll` is the importance-weighted bound with few samples, or exact, plus the length's
    log-probability. Draws are the same at every validation, and leave the global random state be.
    """
    where = next(model.parameters()).device
    generator = torch.Generator(where).manual_seed(0)
    sums: dict[str, float] = {}
    log_prob = torch.zeros(len(data), dtype=torch.float64)
    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        torch.manual_seed(0)
        for rows in evaluation_batches(data, training.batch_tokens, model.multiple):
            batch = collate(data, rows, model.multiple).to(where)
            for name, value in model.loss_terms(batch, training, 1.0).items():
                sums[name] = sums.get(name, 0.0) + float(value)
            terms = model.log_prob_terms(batch, training.dev_samples, generator, chunk=4)
            bound = iw_bound(terms.log_p_y, terms.log_p_z, terms.log_q_z)
            log_prob[torch.as_tensor(rows)] = (bound + terms.log_p_length).double().cpu()
    setting = model.dev_setting(training)
    lines = translate(model, data, vocabulary, [setting], training.batch_tokens)[setting]
    count = sums.pop("tokens")
    scores = {f"dev_{name}": value / count for name, value in sums.items()}
    tokens = int((data.target_lengths + 1).sum())
    scores |= {"dev_ll": float(log_prob.sum()) / tokens,
               "dev_bleu": bleu(lines, references)[0].score}
    return scores, {"log_prob": log_prob,
                    "counts": torch.as_tensor(bleu_statistics(lines, references))}
