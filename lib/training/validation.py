"""Scores on a tokenised split that training and evaluation share: loss terms, LL terms, search."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.batching import Tokenised, collate, evaluation_batches
from lib.bleu import bleu, bleu_statistics
from lib.config import Training
from lib.decoding import DEFAULTS, Options, hypotheses
from lib.errors import TrainingError
from lib.likelihood import iw_bound
from lib.runtime import device_positions, halving
from lib.subword import Vocabulary, one_line

__all__ = ["DECODING_TOKENS", "dev_scores", "translate"]

DECODING_TOKENS = 1024  # of the longest side, with padding, that a CPU translates together
VALIDATED_TOKENS = 2**14  # at least, of a GPU's validations: whatever memory is free, so that the
# same draws fall on the same sentences


@torch.no_grad()
def translate(model, data: Tokenised, vocabulary: Vocabulary, settings: Sequence[str],
              options: Options = DEFAULTS, batch_tokens: int = 0,
              progress: str | None = None) -> dict[str, list[str]]:
    """Detokenised hypotheses of every setting, in corpus order, one line each for any reader of
    lines (`subword.one_line`). Targets only decide which sentences are translated together.

    batch_tokens: how many, of the longest side with padding, are translated together; 0: as many
    as suit the device.
    """
    where = model.device
    options = replace(options, vocabulary=vocabulary)
    lines = {s: [""] * len(data) for s in settings}

    def decode(rows: np.ndarray) -> None:
        batch = collate(data, rows, model.multiple).to(where)
        decoded = hypotheses(model, batch.source, batch.source_mask, settings, options)
        for setting, ids in decoded.items():
            for row, line in zip(rows, vocabulary.decode(ids), strict=True):
                lines[setting][row] = one_line(line)

    tokens = batch_tokens or device_positions(where, DECODING_TOKENS)
    groups = evaluation_batches(data, tokens, model.multiple)
    for rows in tqdm(groups, desc=progress, disable=progress is None, leave=False):
        halving(decode, rows)
    return lines


@torch.no_grad()
def dev_scores(model, data: Tokenised, vocabulary: Vocabulary, references: list[str],
               training: Training, tokenizer: str = "13a",
               ) -> tuple[dict[str, float], dict[str, Tensor]]:
    """`dev_*` loss terms and `dev_ll` in nats per token (with one EOS), and `dev_bleu`; and what
    the last two are sums of, `log_prob` [sentences] and `counts` [sentences, 10] as in
    `history.Validations`.

    `dev_ll` is the importance-weighted bound with few samples, or exact, plus the length's
    log-probability. Sentences that the model gives probability 0, -inf in `log_prob`, and their
    tokens are in none; `dev_impossible` is their number a token of the others, where there can be
    any. Draws are the same at every validation, but where a GPU's memory ran out, and leave the
    global random state be.

    Errors: TrainingError where the model gives no sentence any probability, or no number.
    """
    where = model.device
    generator = torch.Generator(where).manual_seed(0)
    tokens = max(training.batch_tokens, VALIDATED_TOKENS if where.type == "cuda" else 0)
    sums: dict[str, Tensor] = {}
    log_prob = torch.zeros(len(data), dtype=torch.float64, device=where)

    def score(rows: np.ndarray) -> None:
        batch = collate(data, rows, model.multiple).to(where)
        losses = model.loss_terms(batch, training, 1.0)
        terms = model.log_prob_terms(batch, training.dev_samples, generator, chunk=4)
        bound = iw_bound(terms.log_p_y, terms.log_p_z, terms.log_q_z)
        log_prob[torch.as_tensor(rows, device=where)] = (bound + terms.log_p_length).double()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.double()

    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        torch.manual_seed(0)
        for rows in evaluation_batches(data, tokens, model.multiple):
            halving(score, rows)
    log_prob = log_prob.cpu()
    if log_prob.isnan().any():
        raise TrainingError(f"{int(log_prob.isnan().sum())} of {len(data)} dev sentences have NaN "
                            "as their log-probability: lower the learning rate, or set precision "
                            "to fp32")
    setting = model.dev_setting(training)
    lines = translate(model, data, vocabulary, [setting], batch_tokens=tokens)[setting]
    possible = log_prob.isfinite().numpy()
    if not possible.any():
        raise TrainingError("the model gives no dev sentence any probability: raise upsampling")
    count = int((data.target_lengths[possible] + 1).sum())
    scores = {f"dev_{name}": float(value) / count for name, value in sums.items()
              if name != "tokens"}
    scores |= {"dev_ll": float(log_prob[possible].sum()) / count,
               "dev_bleu": bleu(lines, references, tokenizer)[0].score}
    return scores, {"log_prob": log_prob,
                    "counts": torch.as_tensor(
                        bleu_statistics(lines, references, tokenizer=tokenizer))}
