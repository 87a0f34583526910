"""Translate standard input line by line: python -m lib.translate --model ga_b < source.txt.

One line out for each line in, in order, and an empty line for an empty one. Input is read in chunks
of so many lines, each written out as soon as it is done. Progress goes to standard error
(`TQDM_DISABLE=1` hides it).

In fp32 a line's translation is the same whatever else is in the input or translated with it, but
for two hypotheses that tie to the last digits; in bf16 and int8, products are rounded differently
in batches of another size, which changes some translations.
"""

import argparse
import io
import os
import stat
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from lib import runtime
from lib.batching import Tokenised
from lib.config import Config, load_config, run_arguments
from lib.corpora import prepared
from lib.decoding import Options, Procedure
from lib.decoding.frozen import WEIGHTS, freeze
from lib.errors import DataError, ReproError
from lib.evaluation.scoring import load_run
from lib.layers import LONGEST
from lib.subword import Vocabulary
from lib.training.validation import translate

__all__ = ["Translator", "main", "read_lines"]

CHUNK_LINES = 2048  # whose subwords, as many as a model has positions each, are in memory
LONGEST_LINE = 2**20  # bytes: far beyond what a model takes


class Translator:
    """A trained run that turns source lines into target lines."""

    def __init__(self, config: Config, setting: str = "", weights: str = "auto", seed: int = 0):
        """`setting`: as in lib/decoding, by default the run's headline.

        Errors: ConfigError for a setting that doesn't exist or that the model can't do;
        CheckpointError, with the command that trains it, for a missing checkpoint.
        """
        self.config, self.setting = config, setting or config.evaluation.headline
        procedure = Procedure.parse(self.setting)
        run = load_run(config)
        self.vocabulary: Vocabulary = run.task.vocabulary
        precision = config.training.precision if weights == "auto" else weights
        self.model: nn.Module = freeze(run.model, precision)
        self.options = Options(config.evaluation.length_penalty, seed)
        procedure.check(self.model, vocabulary=self.vocabulary)

    def __call__(self, lines: list[str]) -> list[str]:
        """Translations of source lines, in order."""
        return self.of_subwords(self._subwords(lines))

    @torch.inference_mode()
    def of_subwords(self, rows: list[list[int]]) -> list[str]:
        """Translations of source lines that are cut into subwords, in order."""
        sizes = [len(row) for row in rows]
        data = Tokenised(np.array([i for row in rows for i in row], np.int32),
                         np.cumsum([0, *sizes]), np.empty(0, np.int32),
                         np.zeros(len(rows) + 1, np.int64), np.arange(len(rows)))
        return translate(self.model, data, self.vocabulary, [self.setting],
                         self.options)[self.setting]

    def check(self, line: str, number: int) -> list[int]:
        """A line's subwords. Errors: DataError, with its number, for more than a model's positions.
        """
        [row] = self._subwords([line])
        if len(row) >= LONGEST:
            raise DataError(f"line {number} has {len(row)} subwords, models take {LONGEST - 1} at "
                            "most: split it")
        return row

    def _subwords(self, lines: list[str]) -> list[list[int]]:
        dataset = self.config.dataset
        return self.vocabulary.encode(prepared(dataset, dataset.source, lines))


def read_lines(source: io.IOBase) -> Iterator[str]:
    """Each line without its end (LF or CR LF); a last one may lack it.

    Errors: DataError, with the line's number, for a line that isn't UTF-8 or beyond all bounds.
    """
    number = 0
    while line := source.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            raise DataError(f"line {number} has over {LONGEST_LINE:,} bytes: is the input text "
                            "with one sentence a line?")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"line {number} isn't UTF-8 (byte {line[error.start]:#04x} at place "
                            f"{error.start + 1}): convert the input first, e.g. with "
                            "`iconv -f LATIN1 -t UTF-8`") from None
        yield text.removesuffix("\n").removesuffix("\r")


def _chunks(rows: Iterator[list[int]]) -> Iterator[list[list[int]]]:
    """The lines' subwords in groups of CHUNK_LINES; those before a line that is refused come before
    its error.
    """
    group = []
    try:
        for row in rows:
            group.append(row)
            if len(group) == CHUNK_LINES:
                yield group
                group = []
    except DataError:
        yield group
        raise
    yield group


def translate_stream(translator: Translator, source: io.IOBase, output: io.TextIOBase) -> int:
    """Translate all of `source` into `output`; returns the number of lines.

    Errors: those of `read_lines` and `Translator.check`, once all lines before are out;
    BrokenPipeError where nobody reads on.
    """
    checked = (translator.check(line, number) for number, line in enumerate(read_lines(source), 1))
    done, size = 0, _size(source)
    with tqdm(total=size, desc="translating", unit=" lines" if size is None else "B",
              unit_scale=True, file=sys.stderr) as bar:
        for group in _chunks(checked):
            output.writelines(f"{line}\n" for line in translator.of_subwords(group))
            output.flush()
            done += len(group)
            bar.update(len(group) if size is None else source.tell() - bar.n)
    return done


def _size(source: io.IOBase) -> int | None:
    """Bytes of a regular file, None for a pipe or terminal."""
    try:
        status = os.fstat(source.fileno())
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: a whole number, 0 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.translate",
                                     description="Translate standard input, a sentence a line.")
    run_arguments(parser, model="ga_b")
    parser.add_argument("--decoding", default="", help="greedy, beam4, k4, ... (lib/decoding); "
                        "default: the run's headline setting")
    parser.add_argument("--weights", default="auto", choices=WEIGHTS,
                        help="precision of the products; int8 is fastest on a CPU, rounds most")
    parser.add_argument("--draw", type=_seed, default=0, help="seed of everything random")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command; errors end it with status 1 and one line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        runtime.prepare()
        config = load_config(options.model, options.dataset, options.scale, options.seed,
                             options.train_data)
        translator = Translator(config, options.decoding, options.weights, options.draw)
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        translate_stream(translator, sys.stdin.buffer, sys.stdout)
    except ReproError as error:
        raise SystemExit(f"error: {error}") from None
    except BrokenPipeError:
        # nothing more can be written there, not even when Python closes it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit("stopped: whatever read the translations has closed (broken pipe)"
                         ) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
