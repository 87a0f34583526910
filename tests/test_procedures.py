"""Names of procedures: each says it all, and makes sense."""

import pytest

from lib.decoding.procedures import Procedure
from lib.errors import ConfigError


@pytest.mark.parametrize(("name", "short"), [
    ("sample@1", "sample"), ("mbr4-chrf-sample", "mbr4-chrf"), ("nucleus1.0", "sample"),
    ("k1-samples3@1.0-bound", "k1-samples3-bound"), ("sample@0.50", "sample@0.5")])
def test_two_names_of_one_procedure(name, short):
    assert Procedure.parse(name) == Procedure.parse(short)


def test_a_name_says_it_all():
    assert Procedure.parse("k2-lengths5-samples3@0.5-iw20") == Procedure(
        "refine", steps=2, lengths=5, samples=3, temperature=0.5, choice="iw", importance=20)
    assert Procedure.parse("mbr16-chrf-nucleus0.9@0.7") == Procedure(
        "sample", samples=16, temperature=0.7, nucleus=0.9, choice="chrf")
    assert Procedure.parse("k1-lengths5-samples3-iw7").candidates == 15
    assert Procedure.parse("k1").candidates == Procedure.parse("beam4").candidates == 1
    assert Procedure.parse("k1-lengths5-samples3-iw7").hypotheses == 105
    assert [Procedure.parse(n).hypotheses for n in ("beam4", "mbr16-chrf", "k4")] == [4, 16, 1]
    assert Procedure.parse("m12") == Procedure("unmask", steps=12)
    assert Procedure.parse("mT") == Procedure("unmask", steps=0)
    assert Procedure.parse("k4").plain and not Procedure.parse("k4-lengths1").plain


@pytest.mark.parametrize(("setting", "message"), [
    ("beam0", "width must be 1 or more"), ("k-1", "refinement steps are 0 or more"),
    ("k1-lengths0-bound", "lengths must be 1 or more"), ("mbr0-chrf", "samples must be 1 or more"),
    ("k1-samples3-iw0", "importance must be 1 or more"),
    ("sample@0", "temperature must be above 0"), ("nucleus0", "nucleus must lie above 0"),
    ("nucleus1.5", "be at most 1"), ("k1-samples3", "how to choose among 3 candidates"),
    ("k1-lengths2-samples2", "how to choose among 4 candidates"),
    ("k1-bound", "nothing to choose by -bound: add -lengths<n> or -samples<n>"),
    ("k1-samples1-chrf", "nothing to choose by -chrf"),
    ("m0", "unmasking takes 1 step or more, or mT, one a position"),
])
def test_numbers_that_make_no_sense_are_refused(setting, message):
    with pytest.raises(ConfigError, match=f"'{setting}': .*{message}"):
        Procedure.parse(setting)
