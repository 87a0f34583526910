"""Sequence-level knowledge distillation: a teacher's translation of the whole training set.

Kim and Rush (2016), "Sequence-level knowledge distillation", section 3.2: the student learns from
the teacher's beam-search output in place of the references. The set is decoded in shards, each
written in one move, so that it goes on where it was stopped. A shard's lines and batches depend on
the settings alone, so that the text is the same however it was interrupted.
"""

import argparse
import gzip
import hashlib
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sacrebleu.metrics import CHRF
from tqdm.auto import tqdm

from lib import runtime, subword
from lib.batching import Tokenised
from lib.bleu import bleu
from lib.config import TEACHERS, Config, load_config, load_dataset, unknown
from lib.corpora import read
from lib.decoding import Options
from lib.distillation.alignment import complexity
from lib.errors import ConfigError, DataError, one_line_errors
from lib.evaluation.scoring import TrainedRun, load_run
from lib.paths import TEACHER_SEED, DistilledFolder, read_json, write_bytes, write_json
from lib.synthetic import ToyTask
from lib.task import distilled_targets
from lib.training import checkpoints
from lib.training.validation import translate

__all__ = ["distil", "distilled_set", "distilled_texts", "main"]

SHARD_LINES = 2000  # training pairs a shard
BATCH_TOKENS = 4096  # source positions decoded at once, each with a beam of its own
ON_GPU = 2**15  # the same there: a number that free memory doesn't change
SCORED_PAIRS = 100_000  # evenly spaced pairs that BLEU and complexity are over, at most

logger = logging.getLogger(__name__)


def distilled_set(config: Config, lines: int = 0) -> DistilledFolder:
    """The folder of the translation by this teacher's run."""
    return DistilledFolder(config.dataset.name, config.scale, config.model, config.seed, lines)


def distilled_texts(config: Config, lines: int = 0) -> tuple[list[str], list[str], list[str]]:
    """Sources, references, and the teacher's translations, of the pairs that have one.

    Errors: DataError for a set that isn't there, with the command that makes it.
    """
    pairs = read(config.dataset, "train")
    translations = distilled_targets(distilled_set(config, lines), config.dataset.target, pairs)
    rows = [row for row, line in enumerate(translations) if line]
    return tuple([side[row] for row in rows] for side in (pairs.source, pairs.target, translations))


@dataclass(frozen=True)
class _Job:
    """A set to be made: who translates what, and the settings that decide every word of it."""

    teacher: TrainedRun
    folder: DistilledFolder
    sources: Tokenised  # the training pairs that training takes, or the first ones of them
    too_long: int  # pairs that training leaves out
    settings: dict

    @property
    def fingerprint(self) -> str:
        """sha256 of the settings: shards of any others are never looked at."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def shard(self, number: int) -> Path:
        """The file of a finished shard, numbered from 0."""
        return self.folder.shards / self.fingerprint[:16] / f"{number:05d}.json.gz"


def distil(config: Config, lines: int = 0, progress: bool = True) -> dict:
    """Translate the training set with the best checkpoint of the run that `config` describes.

    Writes the folder `distilled_set(config)`: `train.<target language>.gz` with as many lines as
    the training set has pairs (empty where a pair is too long for training, or the teacher wrote
    nothing: training leaves it out), `config.json`, `metrics.json`. What is whole already and of
    the same teacher and settings isn't made again. Returns what metrics.json holds (`_scores`).

    config: the teacher's run on raw data. lines: only the first so many pairs, into a folder that
    no training reads; 0 for all.

    Errors: CheckpointError for a teacher that isn't trained; ConfigError for one that can't search.
    """
    if config.model not in TEACHERS:
        raise ConfigError(unknown("teacher", config.model, TEACHERS))
    if lines < 0:
        raise ConfigError(f"lines = {lines}: 0 or more")
    runtime.prepare()
    job = _job(config, lines)
    done = _finished(job)
    return _join(job, _decode(job, progress)) if done is None else done


def _job(config: Config, lines: int) -> _Job:
    teacher = load_run(config)
    task, train = teacher.task, teacher.task.train
    every = len(task.sources("train"))
    too_long = every - len(train)
    train = train.take(np.arange(min(lines or len(train), len(train))))
    settings = {
        "dataset": config.dataset.name, "scale": config.scale,
        "teacher": {"model": config.model, "train_data": config.train_data, "seed": config.seed,
                    "step": teacher.step,
                    "weights": checkpoints.fingerprint(teacher.model.state_dict())},
        "vocabulary": task.vocabulary.fingerprint,
        "training_text": subword.text_hash(task.sources("train"), task.references("train")),
        "training_pairs": every, "distilled_pairs": len(train),
        "max_tokens": config.dataset.max_tokens, "beam": config.evaluation.beam,
        "length_penalty": config.evaluation.length_penalty,
        "precision": runtime.resolved(config.training.precision), "shard_lines": SHARD_LINES,
        "batch_tokens": ON_GPU if runtime.device().type == "cuda" else BATCH_TOKENS}
    # in place of the references stand the sources: nothing of a target is left to be looked at
    sources = replace(train, target_ids=train.source_ids, target_offsets=train.source_offsets)
    return _Job(teacher, distilled_set(config, lines), sources, too_long, settings)


# ---- decoding -----------------------------------------------------------------------------------

def _decode(job: _Job, progress: bool) -> list[dict]:
    """All shards; those that aren't there yet are translated."""
    rows = np.arange(len(job.sources))
    parts = []
    with tqdm(total=len(rows), desc=f"distilling {job.folder.dataset}", unit="sentence",
              disable=not progress) as bar:
        for number, start in enumerate(range(0, len(rows), SHARD_LINES)):
            part = _read_shard(job.shard(number))
            if part is None:
                started = time.perf_counter()
                lines = _translate(job, job.sources.take(rows[start:start + SHARD_LINES]))
                part = {"lines": lines, "seconds": time.perf_counter() - started}
                write_bytes(job.shard(number), _compressed(json.dumps(part, ensure_ascii=False)))
            parts.append(part)
            bar.update(len(part["lines"]))
    return parts


def _translate(job: _Job, data: Tokenised) -> list[str]:
    """The teacher's beam-search translation of one shard, in corpus order."""
    setting, options = f"beam{job.settings['beam']}", Options(job.settings["length_penalty"])
    with runtime.autocast(job.settings["precision"]):
        lines = translate(job.teacher.model, data, job.teacher.task.vocabulary, [setting], options,
                          job.settings["batch_tokens"])[setting]
    return [line.removeprefix("\ufeff").strip() for line in lines]


def _read_shard(path: Path) -> dict | None:
    """A finished shard; None for one that isn't there, or is damaged, which is deleted."""
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError):
        path.unlink()
        return None


# ---- joining ------------------------------------------------------------------------------------

def _finished(job: _Job) -> dict | None:
    """The metrics of a set that is whole and made with these very settings, else None."""
    folder = job.folder
    text = folder.text(job.teacher.config.dataset.target)
    try:
        described = read_json(folder.config)
        made = gzip.decompress(text.read_bytes()).decode("utf-8").removesuffix("\n").split("\n")
        whole = (described["fingerprint"] == job.fingerprint
                 and described["distilled_text"] == subword.text_hash(made))
        return (whole and read_json(folder.metrics)) or None
    except (OSError, EOFError, ValueError, KeyError):
        return None  # made again, from the shards that are whole


def _join(job: _Job, parts: list[dict]) -> dict:
    """Write text, metrics and config of all shards, each in one move, the config last."""
    translations = [line for part in parts for line in part["lines"]]
    targets = [""] * job.settings["training_pairs"]
    for line, text in zip(job.sources.lines.tolist(), translations, strict=True):
        targets[line] = text
    metrics = {**_scores(job, translations), "seconds": sum(part["seconds"] for part in parts)}
    metrics["sentences_per_second"] = len(translations) / metrics["seconds"]
    metrics |= {"device": str(runtime.device()), "threads": torch.get_num_threads()}
    described = {**job.settings, "fingerprint": job.fingerprint,
                 "distilled_text": subword.text_hash(targets), "torch": torch.__version__}
    folder = job.folder
    text = folder.text(job.teacher.config.dataset.target)
    write_bytes(text, _compressed("\n".join([*targets, ""])))
    write_json(folder.metrics, metrics)
    write_json(folder.config, described)
    for other in folder.shards.iterdir():
        if other != job.shard(0).parent:
            shutil.rmtree(other, ignore_errors=True)
    return metrics


def _scores(job: _Job, translations: list[str]) -> dict:
    """The teacher's text against the references that it stands in for: `bleu`, `identical` (share
    of lines), `empty` and `too_long` (pairs left out), `complexity` of the raw and the distilled
    text of the same pairs, and for toy `modes`, the share of each mode (the last one: none).
    """
    rows = [row for row, line in enumerate(translations) if line]
    if not rows:
        raise DataError(f"teacher {job.folder.teacher} translates every source to nothing: train "
                        "it for longer")
    references, sources = (
        [text[line] for line in job.sources.lines.tolist()]
        for text in (job.teacher.task.references("train"), job.teacher.task.sources("train")))
    same = sum(a == b for a, b in zip(translations, references, strict=True))
    step = -(-len(translations) // SCORED_PAIRS)
    dataset = job.teacher.config.dataset
    score, signature = bleu(translations[::step], references[::step], dataset.bleu_tokenizer)
    chrf = CHRF().corpus_score(translations[::step], [references[::step]]).score
    sides = {"raw": references, "distilled": translations}
    sources = [sources[row] for row in rows[::step]]
    texts = {name: [side[row] for row in rows[::step]] for name, side in sides.items()}
    metrics = {
        **{name: job.settings[name] for name in ("dataset", "scale", "teacher")},
        "teacher_dev_bleu": job.teacher.dev_bleu, "pairs": len(translations),
        "empty": translations.count(""), "too_long": job.too_long,
        "identical": same / len(translations),
        "bleu": {"score": score.score, "signature": signature, "chrf": chrf,
                 "pairs": len(translations[::step])},
        "complexity": {n: asdict(complexity(sources, text)) for n, text in texts.items()},
    }
    if dataset.corpus == "synthetic":
        toy = ToyTask.from_options(dataset.options)
        metrics["modes"] = {n: _mode_shares(toy, sources, text) for n, text in texts.items()}
    return metrics


def _mode_shares(toy: ToyTask, sources: list[str], targets: list[str]) -> list[float]:
    """The share of targets of each mode, and last of those that are no translation at all."""
    joint = np.array([toy.log_joint(*pair) for pair in zip(sources, targets, strict=True)])
    mode = np.where(np.isfinite(joint).any(1), joint.argmax(1), joint.shape[1])
    return (np.bincount(mode, minlength=joint.shape[1] + 1) / len(mode)).tolist()


def _compressed(text: str) -> bytes:
    return gzip.compress(text.encode("utf-8"), mtime=0)  # the same text, the same bytes


# ---- the command --------------------------------------------------------------------------------

def main(arguments: list[str] | None = None) -> None:
    """Distil from a shell: python -m lib.distillation --dataset toy --scale smoke."""
    parser = argparse.ArgumentParser(description="Translate a training set with its teacher.")
    parser.add_argument("--dataset", default="toy")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--teacher", help="default: the one that params/datasets/ names")
    parser.add_argument("--seed", type=int, default=TEACHER_SEED, help="of the teacher's run")
    parser.add_argument("--lines", type=int, default=0, help="only the first so many; 0 = all")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        teacher = options.teacher or load_dataset(options.dataset).teacher
        config = load_config(teacher, options.dataset, options.scale, options.seed)
        metrics = distil(config, options.lines)
    logger.info("%s: %s pairs, BLEU against the references %.1f, %.0f sentences/s",
                distilled_set(config, options.lines).path, f"{metrics['pairs']:,}",
                metrics["bleu"]["score"], metrics["sentences_per_second"])
