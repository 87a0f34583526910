"""The translate command: a line out for each line in, whatever they are, and clear refusals."""

import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from lib import translate as command
from lib.config import load_config
from lib.errors import CheckpointError, ConfigError, DataError
from lib.evaluation.scoring import load_run
from lib.paths import ROOT
from lib.runs import RunFolder
from lib.training.validation import translate

shipped = pytest.mark.skipif(
    not (ROOT / "outputs/runs/toy/smoke/ga_b/raw/s1/checkpoints/best.pt").exists(),
    reason="no trained toy Ga-B: make demo")


@pytest.fixture(scope="module")
def outputs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISCREPANCY_OUTPUTS", str(ROOT / "outputs"))
        yield


@pytest.fixture(scope="module")
def run(outputs):
    if not RunFolder("toy", "smoke", "ga_b").best.exists():
        pytest.skip("no trained toy Ga-B: make demo")
    return load_run(load_config("ga_b"))


@pytest.fixture(scope="module")
def translator(run):
    return command.Translator(load_config("ga_b"), "k1", "fp32")


def start(*arguments: str, **options) -> subprocess.Popen:
    """The command in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "lib.translate", *arguments], cwd=ROOT,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            **options)


@shipped
def test_a_line_out_for_each_line_in(run):
    lines = run.task.sources("test")[:30]
    text = "\n".join([*lines[:10], "", *lines[10:], "   ", lines[0]])  # no end of the last line
    shown = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    process = start("--model", "ga_b", "--dataset", "toy", "--decoding", "k4", "--weights", "fp32",
                    "--chunk-lines", "7", env=shown)
    out, errors = process.communicate(text.encode(), timeout=120)
    assert process.returncode == 0, errors.decode()
    assert re.search(r"translating: .*33 lines", errors.decode())  # on standard error alone
    found = out.decode().split("\n")
    assert found.pop() == ""  # the last line has its end
    data = run.task.test.take(np.arange(30))
    expected = translate(run.model, data, run.task.vocabulary, ["k4"])["k4"]
    assert found == [*expected[:10], "", *expected[10:], "", expected[0]]


@shipped
def test_a_reader_that_leaves_is_told_in_one_line(run):
    process = start("--chunk-lines", "1", "--quiet", "--decoding", "k0")
    process.stdin.write("\n".join(run.task.sources("test")[:200]).encode())
    process.stdout.readline()
    process.stdout.close()
    process.stdin.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=120) == 1
    assert errors == "stopped: whatever read the translations has closed (broken pipe)\n"


@shipped
def test_latin1_is_named_with_its_line():
    process = start("--quiet")
    out, errors = process.communicate("ein\nHäuser\n".encode("latin1"), timeout=120)
    assert (process.returncode, out) == (1, b"")
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
        command.main(["--quiet", *arguments])
    assert told in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_missing_checkpoint_names_the_training_command(isolated):
    with pytest.raises(CheckpointError, match=r"papermill notebooks/02_train.ipynb .*model ga_b"):
        command.Translator(load_config("ga_b"))


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_batch_tokens_must_be_positive(number, capsys):
    with pytest.raises(SystemExit):
        command.main(["--batch-tokens", number])
    assert "a whole number, 1 or more" in capsys.readouterr().err


def test_lines_end_as_files_do():
    text = "\ufeffone\r\n\ntwo\u2028three\x0b \nlast".encode()
    lines = [line for line, _ in command.read_lines(io.BytesIO(text))]
    assert lines == ["one", "", "two\u2028three\x0b ", "last"]
    assert sum(size for _, size in command.read_lines(io.BytesIO(text))) == len(text)


def test_no_input_gives_no_output(translator):
    output = io.StringIO()
    assert command.translate_stream(translator, io.BytesIO(), output, progress=False) == 0
    assert output.getvalue() == ""


def test_an_endless_line_is_refused_before_it_fills_memory():
    class Endless(io.RawIOBase):
        def readline(self, size=-1):
            assert size <= command.LONGEST_LINE
            return b"a" * size

    with pytest.raises(DataError, match="line 1 has over 1,048,576 bytes"):
        next(command.read_lines(Endless()))


def test_memory_is_bounded_by_bytes_too(monkeypatch):
    monkeypatch.setattr(command, "CHUNK_BYTES", 10)
    groups = list(command._chunks(io.BytesIO(b"12345\n" * 7), 3))
    assert [len(group) for group in groups] == [2, 2, 2, 1]


def test_company_and_order_change_nothing(run, translator):
    lines = run.task.sources("test")[:12]
    expected = [translator([line])[0] for line in lines]
    assert translator(lines) == expected
    assert translator(lines[::-1]) == expected[::-1]


def test_a_line_beyond_the_positions_is_named(run, translator):
    long = " ".join([run.task.sources("test")[0]] * 300)
    with pytest.raises(DataError, match=r"line 12 has \d+ subwords, models take 1023 at most"):
        translator(["", long], first=11)


def test_weights_of_eight_bits_translate(run, translator):
    lines = run.task.sources("test")[:40]
    found, exact = command.Translator(load_config("ga_b"), "k1", "int8")(lines), translator(lines)
    assert sum(a == b for a, b in zip(found, exact, strict=True)) > 30


def test_a_teacher_chooses_among_candidates(run):
    chosen = command.Translator(load_config("ga_b"), "k1-lengths2-teacher", "fp32", "tr_s")
    lines = run.task.sources("test")[:6]
    assert all(chosen(lines))


def test_an_unknown_setting_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="unknown decoding setting 'bean4'"):
        command.Translator(load_config("tr_s"), "bean4")
