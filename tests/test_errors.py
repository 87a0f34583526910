"""How a command ends by an error or by Ctrl-C: in one line, with a status that tells them apart."""

import pytest

from lib import distillation, training
from lib.errors import ConfigError, one_line_errors
from workflow import ablations, recipe


@pytest.mark.parametrize(("module", "work"), [
    (training, "train"), (distillation, "distil"), (recipe, "train_all"), (ablations, "train_all")])
def test_an_interrupted_command_says_so_in_one_line(module, work, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, work, interrupted)
    with pytest.raises(SystemExit) as ended:
        module.main([])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped: the same command goes on\n"


@pytest.mark.parametrize(("told", "code"), [(True, "error: no such run"), (False, 1)])
def test_of_many_processes_one_tells(told, code, capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors(told):
        raise ConfigError("no such run")
    assert ended.value.code == code
    with pytest.raises(SystemExit) as ended, one_line_errors(told):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert bool(capsys.readouterr().err) == told
