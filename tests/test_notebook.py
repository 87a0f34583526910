"""What notebooks start with and are cleaned of."""

import tempfile
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure

from lib import notebook
from lib.paths import ROOT


def test_scrub_removes_the_machines_paths_wherever_they_are(monkeypatch):
    root = Path("/srv/someone/repository")  # the real one may lie below another scrubbed folder
    monkeypatch.setattr(notebook, "ROOT", root)
    here = {"text": [f"{root}/lib/x.py", f"in {tempfile.gettempdir()}/ipykernel_12/345.py"], "n": 1}
    assert notebook.scrub(here) == {"text": ["./lib/x.py", "in <cell>"], "n": 1}
    assert notebook.scrub(f"{root}-other/x") == f"{root}-other/x"


def test_clean_keeps_outputs_and_tags_and_drops_the_run():
    cell = nbformat.v4.new_code_cell("1", metadata={
        "tags": ["parameters"], "papermill": {"duration": 1.0}, "execution": {"a": "b"}})
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": f"{ROOT}/x",
                                                            "image/png": "aGk="})]
    book = nbformat.v4.new_notebook(cells=[cell], metadata={
        "papermill": {"input_path": "a"}, "kernelspec": {"name": "mine", "display_name": "mine"}})
    notebook.clean(book)
    assert book.cells[0].metadata == {"tags": ["parameters"]}
    assert book.cells[0].outputs[0].data == {"text/plain": "./x", "image/png": "aGk="}
    assert book.metadata == {"kernelspec": notebook.KERNEL, "language_info": {"name": "python"}}
    nbformat.validate(book)


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
