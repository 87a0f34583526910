"""What notebooks start with."""

import pytest
from matplotlib.figure import Figure

from lib import notebook


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
