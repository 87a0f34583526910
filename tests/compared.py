"""Made-up runs and the verdicts on them, for tests of what is decided and shown."""

from made_up import made_up_references, made_up_run

from analysis import significance, tables
from analysis.resampling import resample_runs
from analysis.systems import collect
from analysis.verdicts import verdicts

TOY = ("toy", "smoke")  # the place of made-up runs that name no other


def compared(runs):
    """Run folders and the pairs that 05_correlation makes of them; by finding and accounting, the
    verdict. runs: keyword lists of `made_up_run`.
    """
    for run in runs:
        made_up_run(**run)
    frame = collect()
    drawn = resample_runs(frame, made_up_references(), *significance.SHOWN, resamples=200)
    pairs = significance.pairs(frame, drawn)
    tables.write(pairs, "significance_toy_smoke")
    return {(found.finding.number, found.accounting): found
            for found in verdicts(TOY)}


def of_models(spec, **changes):
    """Keyword lists of raw runs; spec: model -> its share of wrong words, its nats a token and its
    released estimate; changes: keyword -> model -> value.
    """
    return [{"model": model, "wrong": wrong, "nats": nats, "released": released} | {
        name: values[model] for name, values in changes.items() if model in values}
        for model, (wrong, nats, released) in spec.items()]
