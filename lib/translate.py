"""Translate standard input line by line: python -m lib.translate --model ga_b < source.txt.

One line out for each line in, in order, and an empty line for an empty one. Input is read in chunks
of bounded memory, each written out as soon as it is done. Progress goes to standard error.

In fp32 a line's translation is the same whatever else is in the input or translated with it, but
for two hypotheses that tie to the last digits; in bf16 and int8, products are rounded differently
in batches of another size, which changes some translations.
"""

import argparse
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

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

CHUNK_LINES, CHUNK_BYTES = 2048, 2**22  # at most so much of the input is in memory
LONGEST_LINE = 2**20  # bytes: far beyond what a model takes

Line = TypeVar("Line")  # its text, or its subwords


class Translator:
    """A trained run that turns source lines into target lines."""

    def __init__(self, config: Config, setting: str = "", weights: str = "auto",
                 teacher: str = "", batch_tokens: int = 0, seed: int = 0):
        """`setting`: as in lib/decoding, by default the run's headline; `teacher`: a model.
        `batch_tokens`: of `lib.training.validation.translate`.

        Errors: ConfigError for a setting that doesn't exist or that the model can't do;
        CheckpointError, with the command that trains it, for a missing checkpoint.
        """
        self.config, self.setting = config, setting or config.evaluation.headline
        self.batch_tokens = batch_tokens
        procedure = Procedure.parse(self.setting)
        run = load_run(config)
        self.vocabulary: Vocabulary = run.task.vocabulary
        precision = config.training.precision if weights == "auto" else weights
        self.model: nn.Module = freeze(run.model, precision)
        other = None
        if teacher:
            other = load_run(load_config(teacher, config.dataset.name, config.scale, config.seed,
                                         config.train_data)).model
        self.options = Options(config.evaluation.length_penalty, seed, other)
        procedure.check(self.model, other, self.vocabulary)

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
        return translate(self.model, data, self.vocabulary, [self.setting], self.options,
                         self.batch_tokens)[self.setting]

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


def read_lines(source: io.IOBase) -> Iterator[tuple[str, int]]:
    """Each line without its end (LF or CR LF), and its bytes; a last one may lack the end.

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
        yield text.removesuffix("\n").removesuffix("\r"), len(line)


def _chunks(lines: Iterator[tuple[Line, int]], most: int) -> Iterator[list[tuple[Line, int]]]:
    """Lines with their bytes, in groups of at most `most` lines and about CHUNK_BYTES bytes; those
    before a line that is refused come before its error.
    """
    group, size, error = [], 0, None
    try:
        for item in lines:
            group.append(item)
            size += item[1]
            if len(group) == most or size >= CHUNK_BYTES:
                yield group
                group, size = [], 0
    except DataError as refusal:
        error = refusal
    if group:
        yield group
    if error is not None:
        raise error


def translate_stream(translator: Translator, source: io.IOBase, output: io.TextIOBase,
                     chunk_lines: int = CHUNK_LINES, progress: bool = True) -> int:
    """Translate all of `source` into `output`; returns the number of lines.

    Errors: those of `read_lines` and `Translator.check`, once all lines before are out;
    BrokenPipeError where nobody reads on.
    """
    checked = ((translator.check(text, number), size)
               for number, (text, size) in enumerate(read_lines(source), 1))

    done = 0
    with tqdm(total=_size(source), desc="translating", unit="B", unit_scale=True,
              disable=not progress, file=sys.stderr) as bar:
        for group in _chunks(checked, chunk_lines):
            translated = translator.of_subwords([row for row, _ in group])
            output.writelines(f"{line}\n" for line in translated)
            output.flush()
            done += len(group)
            bar.update(sum(size for _, size in group))
            bar.set_postfix_str(f"{done} lines")
    return done


def _size(source: io.IOBase) -> int | None:
    """Bytes of a regular file, None for a pipe or terminal."""
    try:
        status = os.fstat(source.fileno())
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _from(least: int) -> Callable[[str], int]:
    """What reads a whole number that may not be smaller."""
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: a whole number, {least} or more")
        return int(text)

    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.translate",
                                     description="Translate standard input, a sentence a line.")
    run_arguments(parser, model="ga_b")
    parser.add_argument("--decoding", default="", help="greedy, beam4, k4, ... (lib/decoding); "
                        "default: the run's headline setting")
    parser.add_argument("--weights", default="auto", choices=WEIGHTS,
                        help="precision of the products; int8 is fastest on a CPU, rounds most")
    parser.add_argument("--teacher", default="", help="model that scores candidates (-teacher)")
    parser.add_argument("--draw", type=_from(0), default=0, help="seed of everything random")
    parser.add_argument("--batch-tokens", type=_from(1), default=0,
                        help="source subwords translated together, with padding; default: what "
                        "suits the device")
    parser.add_argument("--chunk-lines", type=_from(1), default=CHUNK_LINES,
                        help="lines read before any is translated; 1 to answer line by line")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command; errors end it with status 1 and one line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        runtime.prepare()
        config = load_config(options.model, options.dataset, options.scale, options.seed,
                             options.train_data)
        translator = Translator(config, options.decoding, options.weights, options.teacher,
                                options.batch_tokens, options.draw)
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        translate_stream(translator, sys.stdin.buffer, sys.stdout, options.chunk_lines,
                         not options.quiet)
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
