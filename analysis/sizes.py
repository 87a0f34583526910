"""Parameters of every model at every scale, beside the published ones: python -m analysis.sizes.

Writes outputs/tables/model_sizes.csv. Models are built without memory for their weights.
"""

import math
from pathlib import Path

import pandas as pd
import torch

from analysis import published
from lib.config import MODELS, SCALES, load_config
from lib.models import build, count_parameters
from lib.paths import outputs_root
from lib.task import Task

__all__ = ["main", "model_sizes", "parameters"]

# A data set of each published size, and for the small scales the one that they are made for.
DATASETS = {"paper": {"wmt": "wmt14_en_de", "iwslt": "iwslt16_de_en"},
            "mini": {"multi30k": "multi30k_de_en"}, "smoke": {"toy": "toy"}}


def parameters(model: str, dataset: str, scale: str, vocabulary: int) -> int:
    """Trained numbers of one model with a joint vocabulary of that size."""
    with torch.device("meta"):
        return count_parameters(build(load_config(model, dataset, scale).architecture, vocabulary))


def model_sizes() -> pd.DataFrame:
    """Columns model, corpus, scale, parameters, published (NaN where the paper gives none).

    The vocabulary has 32,000 subwords at `paper`, 8,000 at `mini`, the toy corpus's words at
    `smoke`. The paper's numbers are for WMT.
    """
    toy = len(Task(load_config(MODELS[0], "toy", "smoke")).vocabulary)
    rows = []
    for scale in reversed(SCALES):
        for corpus, dataset in DATASETS[scale].items():
            size = toy if scale == "smoke" else load_config(
                MODELS[0], dataset, scale).dataset.vocabulary[scale]
            rows += [{"model": model, "corpus": corpus, "scale": scale,
                      "parameters": parameters(model, dataset, scale, size),
                      "published": published.PARAMETERS[model] if corpus == "wmt" else math.nan}
                     for model in MODELS]
    return pd.DataFrame(rows)


def main() -> Path:
    """Write the table; returns where."""
    path = outputs_root() / "tables" / "model_sizes.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = model_sizes().astype({"published": "Int64"})
    table.to_csv(path, index=False, lineterminator="\n")
    return path


if __name__ == "__main__":
    main()
