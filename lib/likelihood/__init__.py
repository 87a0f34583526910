"""Estimators of log p(y|x) from log-probability terms: pure functions, nothing averaged too early.

All take log_p_y = log p(y|z_k, x), log_p_z = log p(z_k|x) and log_q_z = log q(z_k|y, x), summed per
sentence, in nats, of shape [samples, batch], with z_k drawn from q. They return [batch].
"""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["LogProbTerms", "effective_sample_size", "elbo", "iw_bound", "iw_bound_at",
           "released_estimate"]

Terms = Float[Tensor, "samples batch"]  # of each draw of each sentence


@dataclass(frozen=True)
class LogProbTerms:
    """What every family gives for a batch; for an exact likelihood one sample, with zeros."""

    log_p_y: Terms
    log_p_z: Terms
    log_q_z: Terms
    log_p_length: Float[Tensor, " batch"]  # log p(padded length | x); 0 where EOS ends a sentence


def elbo(log_p_y: Terms, log_p_z: Terms, log_q_z: Terms) -> Float[Tensor, " batch"]:
    """Evidence lower bound: mean_k [log p(y|z_k,x) + log p(z_k|x) - log q(z_k|y,x)].

    Lee et al. (2020), equation 2; a lower bound on log p(y|x) in expectation.
    """
    return (log_p_y + log_p_z - log_q_z).mean(0)


def iw_bound(log_p_y: Terms, log_p_z: Terms, log_q_z: Terms) -> Float[Tensor, " batch"]:
    """Importance-weighted bound: log 1/K sum_k p(y,z_k|x) / q(z_k|y,x).

    Burda et al. (2016), equation 8. A lower bound in expectation for every K, rising with K to
    log p(y|x); with K = 1 it is the ELBO.
    """
    log_weights = log_p_y + log_p_z - log_q_z
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


def iw_bound_at(samples: int, log_p_y: Terms, log_p_z: Terms,
                log_q_z: Terms) -> Float[Tensor, " batch"]:
    """`iw_bound` with `samples` of the K draws, its mean over the K // samples blocks of them.

    The same expectation as with the first `samples` draws, with less noise; by Jensen's inequality
    never above `iw_bound` of the same draws where `samples` divides K. With 1 it is the ELBO.
    """
    log_weights = log_p_y + log_p_z - log_q_z
    blocks = log_weights.shape[0] // samples
    log_weights = log_weights[:blocks * samples].unflatten(0, (blocks, samples))
    return log_weights.logsumexp(1).mean(0) - math.log(samples)


def released_estimate(log_p_y: Terms, log_p_z: Terms, log_q_z: Terms,
                      lengths: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The quantity that the paper's released code computes, in nats per padded token.

    logsumexp_k( log p(y|z_k,x)/T + log softmax_k((log p(z_k|x) - log q(z_k|y,x))/T) ), T the padded
    length: tensor2tensor, models/research/transformer_vae_flow_prior.py, `compute_iw_marginal`.
    Not a log-likelihood: with K = 1 it is the reconstruction term alone, and for any K its weights
    sum to one. Whether the published tables come from it isn't known.
    """
    log_weights = ((log_p_z - log_q_z) / lengths).log_softmax(0)
    return (log_p_y / lengths + log_weights).logsumexp(0)


def effective_sample_size(log_p_y: Terms, log_p_z: Terms,
                          log_q_z: Terms) -> Float[Tensor, " batch"]:
    """(sum_k w_k)^2 / sum_k w_k^2, between 1 and K (Kong 1992)."""
    log_weights = log_p_y + log_p_z - log_q_z
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
