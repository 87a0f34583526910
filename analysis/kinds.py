"""What the two models of a pair differ in: the kinds that pairs are counted by."""

from lib.config import LATENT

__all__ = ["KINDS", "PARALLEL", "PRIORS", "RAW_DISTILLED", "WITHIN", "pair_kind"]

GROUPS = {"autoregressive": "autoregressive", "masked": "masked"} | dict.fromkeys(
    LATENT, "latent") | dict.fromkeys(("independent", "dag", "ctc"), "factorised")
"""Factorised: independent tokens, or an exact sum over the paths of a graph or of CTC."""

PARALLEL = tuple(family for family, group in GROUPS.items() if group in ("latent", "factorised"))
"""Families that write all subwords at once: the non-autoregressive ones. A masked model's best
search writes them one by one, in an order of its own."""

PRIORS, WITHIN, RAW_DISTILLED = "Gaussian, flow", "within families", "raw, distilled"
KINDS = ("autoregressive, latent", PRIORS, "autoregressive, factorised", "factorised, latent",
         "factorised, factorised", "masked, others", WITHIN, RAW_DISTILLED)
"""Every kind, in the order of tables; the last one is a single model, trained on either text."""


def pair_kind(first: str, second: str, *, same_text: bool = True) -> str:
    """The kind of a pair of models of these two families."""
    if not same_text:
        return RAW_DISTILLED
    if first == second:
        return WITHIN
    groups = sorted(GROUPS[family] for family in (first, second))
    if groups == ["latent", "latent"]:
        return PRIORS
    return "masked, others" if "masked" in groups else ", ".join(groups)
