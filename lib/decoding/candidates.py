"""Several hypotheses a sentence from a latent model, and the choice of one among them.

Candidates differ by padded length T (the most probable ones) and by prior sample (at some
temperature), and may be refined. Scores, in nats, higher is better:

    bound       log p(T|x) + log p(y|z, x) + log p(z|x) - log q(m|y, x): the delta posterior's proxy
                bound, less the density of q(z|y, x) at its mean m
    importance  log p(T'|x) + importance-weighted bound of log p(y|T', x), T' the length that the
                string y itself pads to: the model's own (strict) log-likelihood of the string
    teacher     log p(y|x) / lp(|y|) of an autoregressive model, as its beam search would rank it

log p(T|x) counts in the first two, for candidates differ in length, and p(y|x) = p(T|x) p(y|T, x);
an autoregressive model's EOS is its own length model. Among candidates of one length the last term
of the first is nearly constant; between lengths the proxy bound alone would compare densities of
different dimension, and choose the shortest.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.batching import padded_length
from lib.decoding.refinement import proxy_bound, refinement_steps, strip
from lib.decoding.search import length_normaliser, source_rows
from lib.distributions import Tokens, draw, exact
from lib.layers import Memory, SourceIds, SourceMask, length_mask
from lib.likelihood import LogProbTerms, iw_bound
from lib.noise import normal, sentence_generator
from lib.subword import BOS, EOS

__all__ = ["Candidates", "ancestral", "ancestral_latents", "best", "bound_scores", "drawn_lengths",
           "grouped", "importance_scores", "own_terms", "propose", "teacher_scores"]

Strings = list[list[list[int]]]  # [sentence][candidate], subwords without EOS


@dataclass(frozen=True)
class Candidates:
    """The candidates of a batch, those of one sentence together, best length first."""

    strings: Strings  # what each candidate says
    lengths: Int[Tensor, "batch lengths"]  # padded lengths, with equally many candidates each
    log_p_length: Float[Tensor, "batch lengths"]  # log p(padded length|x), nats
    z: Float[Tensor, "rows positions channels"]  # where refinement ended
    y: Int[Tensor, "rows positions"]  # argmax p(y|z, x), with what may stand after the first EOS
    real: Bool[Tensor, "rows positions"]  # False beyond a candidate's length


@torch.no_grad()
def propose(model, source: SourceIds, mask: SourceMask,
            memory: Memory, steps: int = 0, lengths: int = 0, samples: int = 0,
            temperature: float = 1.0, seed: int = 0) -> Candidates:
    """Candidates of the `lengths` most probable padded lengths, each from `samples` prior samples.

    With `lengths` 0 the predicted length alone, with `samples` 0 the prior's mean. The samples'
    deviation (of a flow: its base noise) is multiplied by `temperature`. A sample depends on seed,
    source and length alone: more samples or lengths leave the first ones as they are.
    """
    predictor = model.length_predictor
    if lengths:
        padded, log_p_length = predictor.most_probable(memory, lengths)
    else:
        padded = predictor.predict(memory)[:, None]
        log_p_length = predictor.log_prob(memory, padded)
    real = length_mask(padded.flatten())
    prior = model.prior(memory, real.shape[1], real)
    if samples:
        lengths = padded.tolist()
        generators = [sentence_generator(ids, seed, length)
                      for ids, of in zip(source_rows(source, mask), lengths, strict=True)
                      for length in of]
        eps = normal(generators, samples, padded.flatten().tolist(), exact(memory.states[:0]),
                     model.architecture.d_latent, temperature)
        z = prior.from_noise(eps.flatten(0, 1))
        real = real.repeat_interleave(samples, 0)
    else:
        z = prior.mean
    *_, end = refinement_steps(model, memory, z, real, steps)
    return Candidates(grouped(strip(end.y), len(padded)), padded, log_p_length, end.z, end.y, real)


@torch.no_grad()
def ancestral(model, source: SourceIds, mask: SourceMask,
              samples: int = 1, temperature: float = 1.0, seed: int = 0) -> Strings:
    """`samples` draws from the model's p(y|x): T from p(T|x), z from p(z|x), y from p(y|z, x).

    `temperature` divides the logits of T and y and multiplies the deviation of z. A draw ends at
    its first EOS, so strings that no training target looks like count as their beginnings.
    """
    memory = model.encode(source, mask)
    y, _, _ = ancestral_latents(model, memory, source, mask, samples, temperature, seed)
    return grouped(strip(y), len(source))


@torch.no_grad()
def ancestral_latents(model, memory: Memory, source: SourceIds,
                      mask: SourceMask, samples: int = 1,
                      temperature: float = 1.0, seed: int = 0,
                      ) -> tuple[Int[Tensor, "rows positions"],
                                 Float[Tensor, "rows positions channels"],
                                 Bool[Tensor, "rows positions"]]:
    """The draws of `ancestral`: y (EOS beyond its padded length), z, and the real positions."""
    real, generators = drawn_lengths(model, memory, source, mask, samples, temperature, seed)
    sizes = real.sum(1).tolist()
    eps = normal(generators, 1, sizes, exact(memory.states[:0]), model.architecture.d_latent,
                 temperature, block=1)
    uniform = np.zeros(real.shape)
    for row, generator, size in zip(uniform, generators, sizes, strict=True):
        row[:size] = generator.random(size)
    z = model.prior(memory, real.shape[1], real).from_noise(eps[:, 0])
    y = model.decode(z, memory, real).sample(torch.from_numpy(uniform).to(source.device),
                                             temperature)
    return y.masked_fill(~real, EOS), z, real


def drawn_lengths(model, memory: Memory, source: SourceIds,
                  mask: SourceMask, samples: int, temperature: float,
                  seed: int) -> tuple[Bool[Tensor, "rows positions"], list[np.random.Generator]]:
    """Padded lengths drawn from p(T|x), `samples` a sentence that lie together: the real positions
    of each, and the generator that its further draws come from.
    """
    table, log_probs = model.length_predictor.table(memory, beyond=8)
    generators = [sentence_generator(ids, seed, 0, sample)
                  for ids in source_rows(source, mask) for sample in range(samples)]
    uniform = torch.tensor([g.random() for g in generators], dtype=torch.float64)
    place = draw(log_probs, uniform.view(-1, samples).to(source.device), temperature)
    lengths = table.gather(1, place).flatten()
    return length_mask(lengths), generators


@torch.no_grad()
def bound_scores(model, memory: Memory, candidates: Candidates,
                 ) -> Float[Tensor, "batch candidates"]:
    """log p(T|x) + log p(y|z, x) + log p(z|x) - log q(m|y, x) of every candidate, m the mean of q.

    What it takes off the proxy bound makes it the logarithm of an importance weight at one point,
    so that candidates with latents of different dimension can be compared.
    """
    c = candidates
    real = c.real[::len(c.real) // c.lengths.numel()]  # one row a length
    prior = model.prior(memory, c.real.shape[1], real)
    log_p_y, log_p_z = proxy_bound(model, memory, prior, c.z, c.y, c.real)
    q = model.posterior(memory, c.y, c.real)
    by_length = (log_p_y + log_p_z - q.log_prob(q.mean)).view(*c.lengths.shape, -1)
    return (by_length + c.log_p_length[..., None]).flatten(1)


@torch.no_grad()
def importance_scores(model, source: SourceIds, mask: SourceMask, memory: Memory, strings: Strings,
                      samples: int, seed: int = 0,
                      estimate=iw_bound) -> Float[Tensor, "batch candidates"]:
    """log p(y, T'|x) of every string, its integral over z bounded with `samples` samples.

    `estimate` is the bound: `iw_bound`, or another of lib.likelihood with the same arguments.
    """
    distinct, places = _distinct(strings)
    terms = own_terms(model, source, mask, memory, distinct, samples, seed)
    scores = estimate(terms.log_p_y, terms.log_p_z, terms.log_q_z) + terms.log_p_length
    return scores.view(len(strings), -1).gather(1, places.to(scores.device))


@torch.no_grad()
def own_terms(model, source: SourceIds, mask: SourceMask, memory: Memory, strings: Strings,
              samples: int, seed: int = 0) -> LogProbTerms:
    """Log-probability terms of strings (equally many a sentence), padded as training targets are.

    The terms have shape [samples, batch * strings]. The draws from q(z|y, x) depend on seed,
    source and string alone.
    """
    target, lengths = _targets(strings, model.multiple, source.device)
    real = length_mask(lengths, target.shape[1])
    each = len(strings[0])
    q = model.posterior(memory, target, real)
    generators = [sentence_generator(words, seed, 1, *ids)
                  for words, row in zip(source_rows(source, mask), strings, strict=True)
                  for ids in row]
    eps = normal(generators, samples, lengths.tolist(), q.loc, q.loc.shape[2])
    z = q.from_noise(eps.flatten(0, 1))
    log_p_y = model.decode(z, memory, real).log_prob(target, real)
    parts = log_p_y, model.prior(memory, target.shape[1], real).log_prob(z), q.log_prob(z)
    log_p_length = model.length_predictor.log_prob(memory, lengths.view(len(strings), each))
    return LogProbTerms(*(part.view(-1, samples).T for part in parts), log_p_length.flatten())


@torch.no_grad()
def teacher_scores(teacher, source: SourceIds, mask: SourceMask, strings: Strings,
                   length_penalty: float = 0.6) -> Float[Tensor, "batch candidates"]:
    """log p(y|x) / lp(|y|) under an autoregressive model, |y| counting EOS, as in beam search."""
    distinct, places = _distinct(strings)
    memory = teacher.encode(source, mask)
    target, lengths = _targets(distinct, 1, source.device)
    previous = F.pad(target[:, :-1], (1, 0), value=BOS)
    states = teacher.decoder(teacher.embedding(previous), memory, causal=True)
    real = length_mask(lengths, target.shape[1])
    log_p = Tokens(states, teacher.embedding.weight).log_prob(target, real)
    scores = log_p / length_normaliser(lengths, length_penalty)
    return scores.view(len(strings), -1).gather(1, places.to(scores.device))


def best(strings: Strings, scores: Float[Tensor, "batch candidates"]) -> list[list[int]]:
    """The candidate with the highest score a sentence; of equal ones the first."""
    return [row[int(np.argmax(score))]
            for row, score in zip(strings, scores.double().cpu().numpy(), strict=True)]


def grouped(rows: list[list[int]], batch: int) -> Strings:
    """Rows by sentence."""
    count = len(rows) // batch
    return [rows[i * count:(i + 1) * count] for i in range(batch)]


def _distinct(strings: Strings) -> tuple[Strings, Int[Tensor, "batch candidates"]]:
    """Each sentence's different strings, equally many, and which one every candidate is."""
    places = []
    firsts = []
    for row in strings:
        place_of: dict[tuple[int, ...], int] = {}
        places.append([place_of.setdefault(tuple(ids), len(place_of)) for ids in row])
        firsts.append(list(map(list, place_of)))
    width = max(map(len, firsts))
    return ([row + [row[0]] * (width - len(row)) for row in firsts], torch.tensor(places))


def _targets(strings: Strings, multiple: int, device,
             ) -> tuple[Int[Tensor, "rows length"], Int[Tensor, " rows"]]:
    """Strings with EOS up to a multiple, in one tensor, and their padded lengths."""
    flat = [ids for row in strings for ids in row]
    lengths = torch.tensor([padded_length(len(ids), multiple) for ids in flat])
    target = torch.full((len(flat), int(lengths.max())), EOS)
    for row, ids in enumerate(flat):
        target[row, :len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return target.to(device), lengths.to(device)
