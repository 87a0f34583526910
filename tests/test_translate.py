"""The translate command: a line out for each line in, whatever they are, and clear refusals."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from made_up import shipped

from lib import translate as command
from lib.config import load_config
from lib.errors import CheckpointError, ConfigError, DataError
from lib.evaluation.scoring import load_run
from lib.paths import ROOT
from lib.training.validation import translate


@pytest.fixture(scope="module")
def outputs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISCREPANCY_OUTPUTS", str(ROOT / "outputs"))
        yield


@pytest.fixture(scope="module")
def run(outputs):
    shipped("ga_b")
    return load_run(load_config("ga_b"))


@pytest.fixture(scope="module")
def translator(run):
    return command.Translator(load_config("ga_b"), "k1", "fp32")


def start(*arguments: str, lines: int = 0, stdin=subprocess.PIPE, env=None) -> subprocess.Popen:
    """The command in a process of its own; with `lines` in chunks of so many."""
    program = ["-c", f"from lib import translate as t; t.CHUNK_LINES = {lines}; t.main()"] \
        if lines else ["-m", "lib.translate"]
    return subprocess.Popen([sys.executable, *program, *arguments], cwd=ROOT, stdin=stdin,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def test_a_line_out_for_each_line_in(run, tmp_path):
    lines = run.task.sources("test")[:30]
    text = "\n".join([*lines[:10], "", *lines[10:], "   ", lines[0]])  # no end of the last line
    shown = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    asked = ("--model", "ga_b", "--dataset", "toy", "--decoding", "k4", "--weights", "fp32")
    process = start(*asked, lines=7, env=shown)
    out, errors = process.communicate(text.encode(), timeout=120)
    assert process.returncode == 0, errors.decode()
    assert "translating: 33.0 lines" in errors.decode()  # on standard error alone
    (tmp_path / "in.txt").write_text(text, encoding="utf-8")
    with open(tmp_path / "in.txt", "rb") as file:  # whose size is known
        again, errors = start(*asked, stdin=file, env=shown).communicate(timeout=120)
    assert again == out and "translating: 100%" in errors.decode()
    found = out.decode().split("\n")
    assert found.pop() == ""  # the last line has its end
    data = run.task.test.take(np.arange(30))
    expected = translate(run.model, data, run.task.vocabulary, ["k4"])["k4"]
    assert found == [*expected[:10], "", *expected[10:], "", expected[0]]


def test_a_reader_that_leaves_is_told_in_one_line(run):
    process = start("--decoding", "k0", lines=1)
    process.stdin.write("\n".join(run.task.sources("test")[:200]).encode())
    process.stdout.readline()
    process.stdout.close()
    process.stdin.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=120) == 1
    assert errors == "stopped: whatever read the translations has closed (broken pipe)\n"


@pytest.mark.usefixtures("run")
def test_latin1_is_named_with_its_line():
    process = start()
    out, errors = process.communicate("ein\nHäuser\n".encode("latin1"), timeout=120)
    assert process.returncode == 1
    assert out.count(b"\n") == 1  # the line before it
    assert errors.decode().startswith("error: line 2 isn't UTF-8 (byte 0xe4 at place 2): convert")
    assert "Traceback" not in errors.decode()


@pytest.mark.parametrize(("arguments", "told"), [
    (["--model", "ga_bb"], "unknown model 'ga_bb': did you mean ga_b?"),
    (["--decoding", "k-1"], "refinement steps are 0 or more"),
    (["--model", "tr_s", "--decoding", "k4"], "doesn't fit this family"),
    (["--decoding", "k1-lengths3-teacher"], "needs a teacher"),
    (["--dataset", "tojj"], "unknown dataset 'tojj'"),
])
def test_what_makes_no_sense_ends_in_one_line(outputs, arguments, told):
    with pytest.raises(SystemExit, match=r"^error: ") as failure:
        command.main(arguments)
    assert told in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_missing_checkpoint_names_the_training_command(isolated):
    with pytest.raises(CheckpointError, match=r"papermill notebooks/02_train.ipynb .*model ga_b"):
        command.Translator(load_config("ga_b"))


@pytest.mark.parametrize("number", ["-1", "1.5", "²"])
def test_numbers_out_of_range_are_one_line(number, capsys):
    with pytest.raises(SystemExit):
        command.main([f"--draw={number}"])
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.endswith(f"--draw: {number}: a whole number, 0 or more")


def test_lines_end_as_files_do():
    text = "\ufeffone\r\n\ntwo\u2028three\x0b \nlast".encode()
    lines = list(command.read_lines(io.BytesIO(text)))
    assert lines == ["one", "", "two\u2028three\x0b ", "last"]


def test_no_input_gives_no_output(translator):
    output = io.StringIO()
    assert command.translate_stream(translator, io.BytesIO(), output) == 0
    assert output.getvalue() == ""


def test_an_endless_line_is_refused_before_it_fills_memory():
    class Endless(io.RawIOBase):
        def readline(self, size=-1):
            assert size <= command.LONGEST_LINE
            return b"a" * size

    with pytest.raises(DataError, match="line 1 has over 1,048,576 bytes"):
        next(command.read_lines(Endless()))


def test_company_and_order_change_nothing(run, translator):
    lines = run.task.sources("test")[:12]
    expected = [translator([line])[0] for line in lines]
    assert translator(lines) == expected
    assert translator(lines[::-1]) == expected[::-1]


def test_a_line_beyond_the_positions_is_named(run, translator):
    long = " ".join([run.task.sources("test")[0]] * 300)
    with pytest.raises(DataError, match=r"line 12 has \d+ subwords, models take 1023 at most"):
        translator.check(long, 12)


@pytest.mark.parametrize("long", [0, 2, 4, 5])
def test_the_lines_before_one_that_is_too_long_are_translated(run, translator, long, monkeypatch):
    """It may be in the middle of a chunk, at its start or in a later one."""
    lines = run.task.sources("test")[:6]
    expected = translator(lines)
    lines[long] = " ".join([lines[0]] * 300)
    output = io.StringIO()
    monkeypatch.setattr(command, "CHUNK_LINES", 4)
    with pytest.raises(DataError, match=rf"line {long + 1} has \d+ subwords"):
        command.translate_stream(translator, io.BytesIO("\n".join(lines).encode()), output)
    assert output.getvalue() == "".join(f"{line}\n" for line in expected[:long])


def test_the_lines_before_one_that_cannot_be_read_are_translated(run, translator):
    lines = run.task.sources("test")[:3]
    output = io.StringIO()
    with pytest.raises(DataError, match="line 3 isn't UTF-8"):
        command.translate_stream(
            translator, io.BytesIO("\n".join(lines[:2]).encode() + b"\n\xff\n"), output)
    assert output.getvalue() == "".join(f"{line}\n" for line in translator(lines[:2]))


ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\0"


def test_one_line_for_every_reader_whatever_a_model_writes(run, translator, monkeypatch):
    """A vocabulary whose every word ends a line for somebody."""
    class Breaking(type(translator.vocabulary)):
        def decode(self, ids):
            return [f"a{ENDS}b" for _ in ids]

    monkeypatch.setattr(translator, "vocabulary", Breaking(translator.vocabulary.model))
    output = io.StringIO(newline="")
    lines = run.task.sources("test")[:5]
    command.translate_stream(translator, io.BytesIO("\n".join(lines).encode()), output)
    text = output.getvalue()
    assert text.splitlines() == text.removesuffix("\n").split("\n") == [f"a{' ' * 9}\ufffdb"] * 5


@pytest.mark.parametrize("around", ["\u00a0", "\u3000", " ", "\t", "\x1f"])
def test_white_space_around_a_line_is_no_part_of_it(run, translator, around):
    """As in the corpora that models are trained on."""
    line = run.task.sources("test")[0]
    assert translator([around + line + around]) == translator([line])
    assert translator([around]) == [""]


def test_weights_of_eight_bits_translate(run, translator):
    lines = run.task.sources("test")[:40]
    found, exact = command.Translator(load_config("ga_b"), "k1", "int8")(lines), translator(lines)
    assert sum(a == b for a, b in zip(found, exact, strict=True)) > 30


def test_an_unknown_setting_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="unknown decoding setting 'bean4'"):
        command.Translator(load_config("tr_s"), "bean4")
