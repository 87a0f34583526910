"""What training, likelihood, search and evaluation ask of a model: they never ask its family."""

import torch
from torch import Tensor, nn

from lib.batching import Batch, Tokenised
from lib.config import Architecture, Evaluation, Training
from lib.layers import Embedding, Encoder, Memory, SourceIds, SourceMask
from lib.likelihood import LogProbTerms

__all__ = ["Model"]

DRAWING = ("sample", "nucleus")  # kinds of procedure that draw their outputs


class Model(nn.Module):
    """A distribution p(y|x) over target strings; every family is a subclass."""

    multiple = 1
    """targets are padded with EOS to a multiple of this length"""
    likelihood = "exact"
    """what `log_prob_terms` gives: `exact` (one sample), or a `bound` that rises with samples"""
    latents = False
    """whether there are a prior(), a posterior() and a decode() of continuous latent variables"""
    decoding: str
    """the search that fits (`lib.decoding`): stepwise, parallel (with latent variables), graph,
    alignment, positions, unmasking"""
    procedures: tuple[str, ...]
    """the kinds of procedure that `lib.decoding` offers for it; `nucleus` is a kind of its own"""
    dev_search = "greedy"
    """the setting of dev BLEU during training"""

    def __init__(self, a: Architecture, vocabulary: int, dropout: float):
        super().__init__()
        self.architecture = a
        self.embedding = Embedding(vocabulary, a.d_model, dropout)
        self.encoder = Encoder(a.encoder_layers, a.d_model, a.d_filter, a.heads, dropout)
        self.output = None  # a frozen model's product of states and the embedding matrix

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def loss_terms(self, batch: Batch, training: Training,
                   kl_weight: float | Tensor) -> dict[str, Tensor]:
        """Sums over a batch, in nats: `loss` with gradient, its parts without; and `tokens`.

        kl_weight: a number, or a scalar tensor that is above 0; which terms there are depends on
        nothing but whether it is the number 0.

        On a GPU this is captured once a shape of batch and replayed (`lib.training.step`), so:
        - nothing is read on the host: no float(), bool() or .item() of a tensor, no branch on one;
        - where `batch.fixed`, no shape depends on values: masks are factors, never indices
          (`objectives.target_losses` does so), and rows without target tokens are fillers that
          count in no term;
        - random numbers come from torch's global generator.
        """
        raise NotImplementedError

    def log_prob_terms(self, batch: Batch, samples: int, generator: torch.Generator | None,
                       chunk: int) -> LogProbTerms:
        """Log-probability terms of each sentence."""
        raise NotImplementedError

    def policy_log_prob(self, batch: Batch) -> Tensor | None:
        """log p(y|x, T) in the one order in which its search fills positions, where
        `log_prob_terms` takes all orders together; None where there is no such difference.
        """
        return None

    @torch.no_grad()
    def scale_logits(self, factor: float) -> None:
        """Multiply the logits of all subwords by a factor, in place. They are products of the
        embeddings with the decoder's last norm, which nothing else reads.
        """
        self.decoder.norm.weight.mul_(factor)
        self.decoder.norm.bias.mul_(factor)

    def encode(self, source: SourceIds, mask: SourceMask) -> Memory:
        """The encoded source, where search starts."""
        return self.encoder(self.embedding(source), mask)

    def impossible(self, data: Tokenised) -> int:
        """How many pairs have probability 0, and are left out. Errors: ConfigError for too many."""
        return 0

    def initialisations(self, step: int, training: Training) -> list[str]:
        """What `initialise` has to do before this step (from 1), from its first batch."""
        return []

    # ---- the decoding settings, as lib.decoding names them ----

    @classmethod
    def settings(cls, evaluation: Evaluation) -> list[str]:
        """Those that an evaluation reports, the one that gains are taken over first."""
        names = {"beam": [f"beam{evaluation.beam}"],
                 "refine": [f"k{steps}" for steps in evaluation.refinements],
                 "unmask": [*(f"m{steps}" for steps in evaluation.unmaskings), "mT"]}
        return [name for kind in cls.procedures if kind not in DRAWING
                for name in names.get(kind, [kind])]

    @classmethod
    def timed_settings(cls, evaluation: Evaluation) -> list[str]:
        """Those whose speed is measured."""
        return cls.settings(evaluation)

    @classmethod
    def dev_setting(cls, training: Training) -> str:
        """The one of dev BLEU during training."""
        return cls.dev_search
