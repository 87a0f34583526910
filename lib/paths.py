"""Where everything lies: all paths hang off the repository's root, whatever the working folder."""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "NOTEBOOKS", "PARAMS", "ROOT", "RunFolder", "cache_root", "data_root", "outputs_root",
]

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params"
NOTEBOOKS = ROOT / "notebooks"


def _root(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or ROOT / default).expanduser().resolve()


def data_root() -> Path:
    """The folder of downloaded corpora: `$DISCREPANCY_DATA`, else `data/`."""
    return _root("DISCREPANCY_DATA", "data")


def cache_root() -> Path:
    """The folder of vocabularies and tokenised corpora: `$DISCREPANCY_CACHE`, else `cache/`."""
    return _root("DISCREPANCY_CACHE", "cache")


def outputs_root() -> Path:
    """The folder of runs, tables and figures: `$DISCREPANCY_OUTPUTS`, else `outputs/`."""
    return _root("DISCREPANCY_OUTPUTS", "outputs")


@dataclass(frozen=True)
class RunFolder:
    """One run: `runs/<dataset>/<scale>/<model>/<train_data>/s<seed>/` below the outputs."""

    dataset: str
    scale: str
    model: str
    train_data: str = "raw"
    seed: int = 1

    @property
    def path(self) -> Path:
        """The run's folder."""
        return (outputs_root() / "runs" / self.dataset / self.scale / self.model
                / self.train_data / f"s{self.seed}")

    @property
    def config(self) -> Path:
        """Every resolved setting, as JSON."""
        return self.path / "config.json"

    @property
    def history(self) -> Path:
        """A row a validation, as CSV."""
        return self.path / "history.csv"

    @property
    def metrics(self) -> Path:
        """BLEU, likelihoods and speed on the test set, as JSON."""
        return self.path / "metrics.json"

    @property
    def sentences(self) -> Path:
        """A row a test sentence, as CSV."""
        return self.path / "sentences.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints; not in git but for the small ones of the quick start."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The weights with the best dev BLEU, all that evaluation needs."""
        return self.checkpoints / "best.pt"

    @property
    def last(self) -> Path:
        """The whole training state at the last checkpoint, for resuming."""
        return self.checkpoints / "last.pt"
