"""The repository itself: versions agree, nothing that matters is ignored, modules keep their order.

A failing test names the file and what to change.
"""

import ast
import functools
import graphlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lib.config import MODELS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lib", "analysis", "workflow")  # each imports only itself and those before it
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")
                 if path.stem != "__main__")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# commands; others return what they have to say
PRINTING = {"workflow.grid", "workflow.gpu", "workflow.job", "workflow.side_by_side"}
UNTESTED = {"lib", "analysis", "lib.errors"}  # no decision that could be wrong
CONDA_NAMES = {"torch": "pytorch"}
UNPINNED = re.compile(r"nvidia-|cuda-|triton$|setuptools$")  # torch's own, by platform and build

# Tracked files that may exceed the limit: the quick start's checkpoints, together under 20 MB.
LARGE_FILES = {f"outputs/runs/toy/smoke/{model}/raw/s1/checkpoints/best.pt" for model in MODELS}
LARGEST = 2 * 2**20  # bytes

# Written in pieces, so that this file doesn't contain what it looks for.
MACHINE = re.compile(
    r"(?<![\w.+/*-])/(?:" + "|".join(["work", "root", "home/[a-z]+", "Users/[A-Za-z]+", "tm" "p"])
    + r")/(?=[A-Za-z])"
)
HOSTS = re.compile(
    "|".join(
        re.escape(host + ending)
        for host, ending in [
            ("pypi", ".org"), ("files.python", "hosted.org"), ("download.py", "torch.org"),
            ("conda.ana", "conda.org"), ("repo.ana", "conda.com"), ("registry.npm", "js.org"),
            ("deb.deb", "ian.org"), ("proxy.go", "lang.org"), ("/opt/", "pypi"),
        ]
    )
)


# What is compared ----------------------------------------------------------------------------

def requirements() -> dict[str, Requirement]:
    """The direct packages of pyproject.toml, those of `make`'s extras included, by normal name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["test"],
             *project["optional-dependencies"]["grid"]]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def pins() -> dict[str, str]:
    """The exact versions of constraints.txt, by normal name."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+==[\w.]+", line), f"constraints.txt: not NAME==X: {line!r}"
            name, version = line.split("==")
            assert canonicalize_name(name) not in found, f"constraints.txt: {name} is there twice"
            found[canonicalize_name(name)] = version
    return found


def conda() -> dict[str, str]:
    """The exact versions of environment.yml, by pip's name, without python and pip."""
    names = {theirs: ours for ours, theirs in CONDA_NAMES.items()}
    found = {}
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_pip = next(line["pip"] for line in lines if isinstance(line, dict))
    for line in [*lines, *(line for line in by_pip if "==" in line)]:
        if isinstance(line, str) and line != "pip" and not line.startswith("python="):
            name, version = line.replace("==", "=").split("=")
            found[names.get(name, canonicalize_name(name))] = version
    return found


def dotted(path: Path) -> str:
    """A module's name: `lib.flows`, `lib.decoding` (a package's own), `analysis.tables`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@functools.cache
def git(*arguments: str, stdin: str = "") -> str:
    """What git says about this checkout alone; skips where there is none."""
    if shutil.which("git") is None:
        pytest.skip("git isn't installed")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def call(*words: str) -> subprocess.CompletedProcess:
        # no ignore file of the user's: only the repository's own counts
        return subprocess.run(
            ["git", "-c", f"core.excludesFile={os.devnull}", *words], cwd=ROOT, env=environment,
            input=stdin, capture_output=True, text=True, check=False,
        )

    top = call("rev-parse", "--show-toplevel")
    if top.returncode or Path(top.stdout.strip()).resolve() != ROOT:
        pytest.skip("not a git checkout (an unpacked archive?)")
    answer = call(*arguments)
    assert answer.returncode in (0, 1), answer.stderr
    return answer.stdout


def tracked() -> list[Path]:
    """The files that git tracks here, deleted ones left out."""
    paths = (ROOT / name for name in git("ls-files", "-z").split("\0") if name)
    return [path for path in paths if path.is_file()]


def ignored(names: list[str]) -> set[str]:
    """Which of the names .gitignore hides, whether they exist or not, tracked or not."""
    return set(git("check-ignore", "--no-index", "--stdin", stdin="\n".join(names)).splitlines())


# Versions ------------------------------------------------------------------------------------

def test_every_direct_package_is_pinned_inside_its_range():
    pinned = pins()
    for name, requirement in requirements().items():
        assert requirement.specifier, f"pyproject.toml: {name} has no range"
        assert name in pinned, f"constraints.txt lacks {name}"
        assert pinned[name] in requirement.specifier, (
            f"constraints.txt has {name}=={pinned[name]}, pyproject.toml wants {requirement}"
        )


def test_conda_has_the_same_packages_at_the_same_versions():
    pinned = pins()
    assert conda() == {name: pinned[name] for name in requirements()}


def test_conda_takes_one_channel_and_this_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert "python=3.11" in environment["dependencies"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11,<3.13"
    assert project["tool"]["ruff"]["target-version"] == "py311"


def test_everything_that_the_direct_packages_bring_is_pinned():
    pinned, seen = pins(), set()
    queue = [(name, frozenset(r.extras)) for name, r in requirements().items()]
    while queue:
        name, extras = queue.pop()
        if (name, extras) in seen or UNPINNED.match(name):
            continue
        seen.add((name, extras))
        assert name in pinned, f"constraints.txt lacks {name}"
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # known to conda under another name
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in extras | {""}):
                queue.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0"])
def test_every_pin_takes_the_oldest_pythons_that_are_promised(python):
    for name in pins():
        try:
            needed = importlib.metadata.metadata(name)["Requires-Python"]
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that isn't installed here
        assert SpecifierSet(needed or "").contains(python), (
            f"constraints.txt: {name} of this version needs Python {needed}, pyproject.toml "
            f"promises {python}")


# What git sees -------------------------------------------------------------------------------

def test_nothing_that_matters_is_ignored():
    names = [
        path.relative_to(ROOT).as_posix()
        for pattern in ("lib/**/*.py", "notebooks/*.ipynb", "params/**/*.yaml", "tests/**/*.py",
                        "scripts/*", "benchmarks/*.py")
        for path in ROOT.glob(pattern) if "__pycache__" not in path.parts
    ]
    run = "outputs/runs/multi30k_de_en/mini/tr_s/raw/s1"
    names += [f"{run}/{name}" for name in ("config.json", "history.csv", "metrics.json",
                                           "sentences.csv", "02_train.ipynb")]
    names += ["lib/new.py", "params/datasets/new.yaml", "outputs/tables/new.csv", "constraints.txt"]
    names += [f"outputs/runs/toy/smoke/{model}/raw/s1/checkpoints/best.pt"
              for model in ("tr_s", "ga_b", "fl_l")]
    assert ignored(names) == set()


def test_what_is_large_or_made_is_ignored():
    names = [
        "outputs/runs/toy/smoke/tr_s/raw/s1/checkpoints/last.pt",
        "outputs/runs/toy/smoke/tr_s/raw/s2/checkpoints/best.pt",
        "outputs/runs/toy/smoke/tr_s/distilled/s1/checkpoints/best.pt",
        "outputs/runs/toy/mini/tr_s/raw/s1/checkpoints/best.pt",
        "outputs/runs/multi30k_de_en/smoke/tr_s/raw/s1/checkpoints/best.pt",
        "data/train.de", "cache/tokens.npz", ".venv", "lib/__pycache__/paths.pyc",
        "notebooks/.ipynb_checkpoints/01_data-checkpoint.ipynb",
    ]
    assert ignored(names) == set(names)


def test_no_large_file_is_tracked():
    large = {path.relative_to(ROOT).as_posix() for path in tracked()
             if path.stat().st_size > LARGEST}
    assert large <= LARGE_FILES, f"over {LARGEST / 2**20:.0f} MiB: {sorted(large - LARGE_FILES)}"


def test_no_tracked_text_names_a_machine_or_a_registry():
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data[:8192]:
            continue  # not a text
        for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
            for match in (MACHINE.search(line), HOSTS.search(line)):
                if match:
                    place = f"{path.relative_to(ROOT)}:{number}"
                    found.append(f"{place}: {line[match.start():match.start() + 40]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("text", "hit"), [
    ("see /{}/main/lib", True), ('"/{}/x"', True), ("framework/{}/x", False),
    ("https://example.org/{}/x", False), ("a/{}/b", False),
])
def test_the_machine_pattern_itself(text, hit):
    for folder in ("work", "root"):
        assert bool(MACHINE.search(text.format(folder))) == hit


# Modules -------------------------------------------------------------------------------------

# A rule over modules is one test, which names every module that breaks it.

def test_modules_open_with_a_sentence():
    wrong = {}
    for path in MODULES:
        first = (ast.get_docstring(parsed(path)) or "").split("\n\n")[0].strip()
        if not first.endswith((".", ":")):
            wrong[dotted(path)] = first
    assert not wrong, f"no sentence opens {wrong}"


def offered(tree: ast.Module) -> list[list[str]]:
    """What each `__all__` of a module holds."""
    return [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)]


def names_in(tree: ast.Module) -> set[str]:
    """The names that a module has once it is imported."""
    there = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            there.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            there.update(alias.asname or alias.name for alias in node.names)
        else:
            there.update(n.id for n in ast.walk(node)
                         if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return there


def test_modules_say_what_they_offer():
    trees = {dotted(p): parsed(p) for p in MODULES if dotted(p) not in PACKAGES}
    counts = {name: len(offered(tree)) for name, tree in trees.items()}
    assert set(counts.values()) == {1}, "__all__ is defined so often: " + str(
        {name: count for name, count in counts.items() if count != 1})
    lacking = {name: set(offered(tree)[0]) - names_in(tree) for name, tree in trees.items()}
    assert not any(lacking.values()), {name: gap for name, gap in lacking.items() if gap}


def test_modules_have_their_tests():
    files = {dotted(path): f"tests/test_{dotted(path).rpartition('.')[2]}.py" for path in MODULES}
    missing = {name: tests for name, tests in files.items()
               if name not in UNTESTED and not (ROOT / tests).is_file()}
    assert not missing


def test_no_two_modules_share_their_tests():
    names = [dotted(path).rpartition(".")[2] for path in MODULES]
    assert len(set(names)) == len(names)


def imported(path: Path) -> set[str]:
    """The repository's modules that a module imports, anywhere in it, as `dotted` names them."""
    modules, found = {dotted(module) for module in MODULES}, set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: import by the whole name"
            below = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found.update(below or {node.module})
    return found & modules


def test_lib_knows_no_analysis_and_analysis_no_workflow():
    def place(name: str) -> int:
        return PACKAGES.index(name.partition(".")[0])

    above = {dotted(path): {name for name in imported(path) if place(name) > place(dotted(path))}
             for path in MODULES}
    assert not any(above.values()), {name: found for name, found in above.items() if found}


def test_imports_make_no_circle():
    sorter = graphlib.TopologicalSorter({dotted(path): imported(path) - {dotted(path)}
                                         for path in MODULES})
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        pytest.fail("imports in a circle: " + " <- ".join(error.args[1]))


def test_modules_neither_print_nor_show():
    found = []
    for path in MODULES:
        forbidden = {"plt.show"} | (
            set() if dotted(path) in PRINTING else {"print", "sys.stdout.write"})
        found += [f"{dotted(path)}:{node.lineno}: {ast.unparse(node.func)}"
                  for node in ast.walk(parsed(path))
                  if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden]
    assert not found


# Notebooks -----------------------------------------------------------------------------------

def test_notebooks_sort_in_reading_order():
    assert NOTEBOOKS, "no notebooks"
    numbers = [re.fullmatch(r"(\d\d)_[a-z0-9_]+", path.stem) for path in NOTEBOOKS]
    assert all(numbers), f"not NN_name.ipynb: {[path.name for path in NOTEBOOKS]}"
    assert [int(match[1]) for match in numbers] == list(range(len(NOTEBOOKS)))


@functools.cache
def notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_notebooks_were_run_from_top_to_bottom_without_errors_or_warnings():
    for path in NOTEBOOKS:
        cells = [cell for cell in notebook(path)["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), \
            f"{path.name}: run `make notebooks`"
    for path in (*NOTEBOOKS, *(ROOT / "outputs/notebooks").rglob("*.ipynb")):
        for cell in notebook(path)["cells"]:
            for output in cell.get("outputs", []):
                assert output["output_type"] != "error", f"{path}: {output['ename']}"
                assert output.get("name") != "stderr", f"{path}: {output['text']}"


def test_notebooks_have_one_cell_of_literal_parameters():
    for path in NOTEBOOKS:
        cells = [cell for cell in notebook(path)["cells"]
                 if "parameters" in cell["metadata"].get("tags", [])]
        assert len(cells) == 1, f"{path.name} has {len(cells)} cells tagged `parameters`"
        for node in ast.parse("".join(cells[0]["source"])).body:
            assert isinstance(node, ast.Assign | ast.AnnAssign), f"{path.name}: {ast.unparse(node)}"
            ast.literal_eval(node.value)  # a name or a call here raises, and shows itself


def test_notebooks_keep_nothing_of_the_run():
    kept_by = []
    for path in NOTEBOOKS:
        kept = set(notebook(path)["metadata"]) - {"kernelspec", "language_info"}
        for cell in notebook(path)["cells"]:
            kept |= {"execution", "papermill"} & set(cell["metadata"])
            kept |= {"injected-parameters"} & set(cell["metadata"].get("tags", []))
        kept_by += [f"{path.name}: {name}" for name in sorted(kept)]
    assert not kept_by
