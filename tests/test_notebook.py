"""What notebooks start with: errors of one line, parameters checked where they are given."""

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from matplotlib.figure import Figure

from lib import notebook
from lib.errors import ConfigError, ReproError, Stopped
from lib.paths import NOTEBOOKS


def test_setup_serves_a_plain_python_too():
    notebook.setup()


@pytest.mark.parametrize(("value", "shown"), [("1", False), ("", True)])
def test_progress_is_hidden_on_request(monkeypatch, value, shown):
    monkeypatch.setenv("TQDM_DISABLE", value)
    assert notebook.shows_progress() is shown


def test_follow_shows_a_figure_once_and_then_updates_it(monkeypatch):
    calls = []

    class Handle:
        def update(self, figure):
            calls.append(("update", figure))

    def display(figure, display_id):
        calls.append(("display", figure))
        return Handle()

    monkeypatch.setattr(notebook, "display", display)
    redraw = notebook.follow(Figure)
    redraw({})
    redraw({})
    assert [name for name, _ in calls] == ["display", "update"]
    assert calls[0][1] is not calls[1][1]


def test_an_interruption_says_where_it_stopped_and_how_it_goes_on():
    step = 0
    with (pytest.raises(Stopped, match="^at step 7 of 600; run the notebook again to go on$"),
          notebook.interruptible(lambda: f"at step {step} of 600")):
        step = 7
        raise KeyboardInterrupt


@pytest.mark.parametrize(("kind", "error", "line"), [
    (ConfigError, ConfigError("unknown model"), "ConfigError: unknown model"),
    (Stopped, Stopped("at step 7 of 600"), "Stopped: at step 7 of 600"),
    (KeyboardInterrupt, KeyboardInterrupt(), "KeyboardInterrupt: interrupted; run the notebook "
                                             "again"),
])
def test_errors_of_the_users_own_are_one_line(kind, error, line):
    class Shell:
        def _showtraceback(self, kind, error, lines):
            self.lines = lines

    shell = Shell()
    notebook._one_line(shell, kind, error, None)
    assert shell.lines == [line]


@pytest.mark.parametrize(("arguments", "message"), [
    (("samples", 0, int, 1), "samples = 0 must be 1 or more"),
    (("sentence", 5000, int, 0, 999), "sentence = 5000 must be from 0 to 999"),
    (("samples", True, int, 1), "samples = True must be of type int"),
    (("rate", float("nan"), float, 0), "rate = nan must be 0 or more"),
    (("overrides", "{}", dict), r"must be of type dict \(papermill: -y, not -p\)"),
    (("weights", "int9", ("int8", "fp32")), "unknown weights 'int9': did you mean int8"),
])
def test_a_wrong_parameter_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        notebook.check(*arguments)
    notebook.check("sentence", 3, int, 0, 999)
    notebook.check("rate", 1, float, 0)


def test_names_of_files_say_what_made_them():
    assert notebook.file_stem("toy", "smoke") == "toy_smoke"
    assert notebook.file_stem("toy", "smoke", "distilled", 2, "ga_b", "", "n20") == \
        "toy_smoke_distilled_s2_ga_b_n20"


# ---- the notebooks' own parameters ----

def begin(name: str, **parameters) -> None:
    """Run the parameters' cell and the one after it, which checks them."""
    cells = [cell.source for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells
             if cell.cell_type == "code"]
    names: dict = {}
    exec(compile(cells[0], name, "exec"), names)
    assert set(parameters) <= set(names)
    names |= parameters
    exec(compile(cells[1], name, "exec"), names)


@pytest.mark.parametrize(("name", "parameters", "message"), [
    ("00_model", {"model": "tr_s"}, "Tr-S won't do here; choose among ga_b, ga_l, fl_s"),
    ("00_model", {"samples": 0}, "samples = 0"),
    ("01_data", {"sentence": 5000}, "sentence = 5000 must be from 0 to 999"),
    ("01_data", {"sentence": -1}, "sentence = -1 must be from 0 to 999"),
    ("01_data", {"scale": "smal"}, "unknown scale 'smal'"),
    ("02_train", {"overrides": '{"steps": 20}'}, "overrides = .* -y, not -p"),
    ("02_train", {"overrides": {"step": 20}}, "did you mean steps"),
    ("02_train", {"processes": 0}, "processes = 0"),
    ("03_eval", {"overrides": []}, r"overrides = \[\] must be of type dict"),
    ("04_latent_space", {"models": []}, r"models = \[\]: name at least one of ga_b"),
    ("04_latent_space", {"models": "ga_b"}, "models = 'ga_b' must be of type list"),
    ("04_latent_space", {"models": ["ga_c"]}, "models: unknown model 'ga_c': did you mean ga_"),
    ("04_latent_space", {"sentence": -1}, "sentence = -1"),
    ("05_correlation", {"accounting": "nats"}, "unknown accounting 'nats'"),
    ("06_likelihood_audit", {"sentences": 0}, "sentences = 0"),
    ("06_likelihood_audit", {"dataset": "toi"}, "unknown dataset 'toi': did you mean toy"),
    ("07_refinement", {"models": ["tr_s"]}, "models: Tr-S won't do here; choose"),
    ("07_refinement", {"teacher": "fl_b"}, "unknown teacher 'fl_b'"),
    ("07_refinement", {"parallel": ["k-4"]}, "k-4"),
    ("07_refinement", {"sentences": -1}, "sentences = -1"),
    ("08_speed", {"baseline": "ga_b"}, "unknown baseline 'ga_b'"),
    ("08_speed", {"weights": "int4"}, "unknown weights 'int4'"),
    ("08_speed", {"models": ["tr_x"]}, "models: unknown model 'tr_x'"),
    ("09_distillation", {"teacher": "ga_b"}, "unknown teacher 'ga_b'"),
    ("09_distillation", {"lines": -3}, "lines = -3"),
])
def test_a_notebooks_parameters_are_refused_in_one_line_before_anything_else(
        isolated, name, parameters, message):
    with pytest.raises(ReproError, match=message) as refused:
        begin(name, **parameters)
    assert "\n" not in str(refused.value)


def test_each_process_tests_the_notebooks_on_its_own_copy_of_the_results(tmp_path, monkeypatch):
    """And removes it; what the repository doesn't keep isn't copied."""
    spec = importlib.util.spec_from_file_location("of_notebooks", NOTEBOOKS / "conftest.py")
    of_notebooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(of_notebooks)
    (tmp_path / "outputs/tables").mkdir(parents=True)
    (tmp_path / "outputs/tables/a b.csv").write_text("kept")
    (tmp_path / "outputs/last.pt").write_bytes(bytes(of_notebooks.LARGEST + 1))
    monkeypatch.setattr(of_notebooks, "ROOT", tmp_path)
    monkeypatch.setenv("DISCREPANCY_CACHE", str(tmp_path / "my cache"))
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", "before")

    def process(worker, **options):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        config = SimpleNamespace(stash=pytest.Stash(),
                                 getoption=lambda name, default: options.get(name, default))
        of_notebooks.pytest_configure(config)
        return config, Path(os.environ["DISCREPANCY_OUTPUTS"])

    assert process("", numprocesses=2)[1] == Path("before")  # the one that hands out the work
    (one, first), (two, second) = process("gw0"), process("gw1", numprocesses=2)
    assert first != second
    for copy in (first, second):
        assert [path.name for path in copy.rglob("*") if path.is_file()] == ["a b.csv"]
    (first / "tables/a b.csv").write_text("changed")
    of_notebooks.pytest_unconfigure(one)
    assert not first.exists() and (second / "tables/a b.csv").read_text() == "kept"
    of_notebooks.pytest_unconfigure(two)
    assert not second.exists() and (tmp_path / "outputs/tables/a b.csv").read_text() == "kept"
