"""What executed notebooks are cleaned of, and the error that one holds."""

import os
import tempfile
from pathlib import Path

import nbformat
import pytest

from lib.paths import ROOT
from workflow.grid import executed


def test_scrub_removes_the_machines_paths_wherever_they_are(monkeypatch):
    root = Path("/srv/someone/repository")  # the real one may lie below another scrubbed folder
    monkeypatch.setattr(executed, "ROOT", root)
    here = {"text": [f"{root}/lib/x.py", f"in {tempfile.gettempdir()}/ipykernel_12/345.py"], "n": 1}
    assert executed.scrub(here) == {"text": ["./lib/x.py", "in <cell>"], "n": 1}
    assert executed.scrub(f"{root}-other/x") == f"{root}-other/x"


@pytest.mark.parametrize("home", ["/", "", "relative", None])
def test_a_home_that_is_nobodys_leaves_the_text_alone(home, monkeypatch):
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user of no list
    else:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(executed.tempfile, "gettempdir", lambda: "/")  # in a container of no /tmp
    text = "22 / 0 / 20 pairs<br/> http://a.b relative"
    assert executed.scrub(text) == text


def test_only_whole_paths_are_replaced(monkeypatch):
    monkeypatch.setenv("HOME", "/someone")
    same = "/srv/someone/x http://a.b/someone/x ../someone"
    assert executed.scrub(same) == same
    assert executed.scrub("at /someone/x, \x1b[32m/someone/y") == "at ~/x, \x1b[32m~/y"


def test_clean_keeps_outputs_and_tags_and_drops_the_run():
    cell = nbformat.v4.new_code_cell("1", metadata={
        "tags": ["parameters"], "papermill": {"duration": 1.0}, "execution": {"a": "b"}})
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": f"{ROOT}/x",
                                                            "image/png": "aGk="})]
    book = nbformat.v4.new_notebook(cells=[cell], metadata={
        "papermill": {"input_path": "a"}, "kernelspec": {"name": "mine", "display_name": "mine"}})
    executed.clean(book)
    assert book.cells[0].metadata == {"tags": ["parameters"]}
    assert book.cells[0].outputs[0].data == {"text/plain": "./x", "image/png": "aGk="}
    assert book.metadata == {"kernelspec": executed.KERNEL, "language_info": executed.LANGUAGE}
    nbformat.validate(book)


def test_the_language_is_stored_as_jupyterlab_stores_it():
    from ipykernel.ipkernel import IPythonKernel

    assert IPythonKernel.language_info == executed.LANGUAGE


def test_the_first_error_is_told_in_one_line():
    fine, bad = nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("1 / 0")
    bad.outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="first\nsecond",
                                          traceback=[])]
    book = nbformat.v4.new_notebook(cells=[fine, bad])
    assert executed.error_line(book) == "ValueError: first"
    assert executed.error_line(nbformat.v4.new_notebook(cells=[fine])) == ""
