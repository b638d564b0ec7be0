"""What holds for the source as a whole: packages, import direction, public names, no unpickling, short modules."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS: dict[str, str] = {folder: package for package, folder in SETUPTOOLS["package-dir"].items()}

# Which parts of Laconic a part may import, beside itself. The command line's `serve` and `bench` are the two ways up.
MAY_IMPORT: dict[str, set[str]] = {
    "entropy": set(),
    "weights": set(),
    "codecs": {"entropy", "weights"},
    "training": {"codecs", "entropy", "weights"},
    "bench": {"codecs", "entropy", "weights"},
    "service": {"codecs", "entropy", "weights"},
    "sdk": {"codecs"},
}
MAY_ALSO_IMPORT = {
    "sdk/commands.py": {"service", "bench"},
    "sdk/demo.py": {"service"},
    "sdk/doctor.py": {"service"},
    "sdk/keys.py": {"service"},
}


def shipped() -> list[Path]:
    """Every Python file of the shipped folders, relative to the root."""
    return sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def tracked() -> list[Path]:
    """Every file that git tracks or would; all but build outputs where there is no git."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        return [
            path.relative_to(ROOT) for folder in (*FOLDERS, "tests", "docs", "scripts") for path in (ROOT / folder).rglob("*.*")
        ]
    return [Path(line) for line in listing.stdout.splitlines() if (ROOT / line).is_file()]


def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), filename=str(path))


def package_of(path: Path) -> str:
    """The package that a file imports as a member of: codecs/image/jpeg.py is in laconic.codecs.image."""
    return ".".join([FOLDERS[path.parts[0]], *path.parts[1:-1]])


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, by full name, with its line; `from x import y` counts as x and as x.y."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package_of(path).split(".")
                module = ".".join([*base[: len(base) - node.level + 1], *filter(None, [module])])
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def part_of(module: str) -> str | None:
    """The folder whose code a module name means; None for other projects' modules."""
    parts = module.split(".")
    if parts[0] != "laconic":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "sdk"


def test_every_weights_file_has_a_card_whose_title_names_it() -> None:
    titles = [card.read_text(encoding="utf-8").splitlines()[0] for card in (ROOT / "weights").glob("*.md")]
    named = {word.strip(",:") for title in titles for word in title.split()}
    files = {path.stem for path in (ROOT / "weights").glob("*.safetensors")}
    assert files and files <= named, f"no card's title names {sorted(files - named)}"


def test_the_package_list_is_the_folders() -> None:
    with_code = {package_of(path) for path in shipped()}
    weights = {"laconic.weights"}  # holds no code
    assert with_code | weights == set(SETUPTOOLS["packages"]) | weights
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)


def folder_of(package: str) -> Path:
    """The folder that a package is made of."""
    mapped = [(base, folder) for folder, base in FOLDERS.items() if f"{package}.".startswith(f"{base}.")]
    base, folder = max(mapped)  # the longest, as they are prefixes of one another
    return ROOT.joinpath(folder, *package.removeprefix(base).split("."))


def test_every_file_beside_the_code_is_in_the_wheel() -> None:
    """What `package-data` does not match works in a checkout and is absent from the wheel."""
    patterns = SETUPTOOLS["package-data"]["*"]
    packed = {path for package in SETUPTOOLS["packages"] for pattern in patterns for path in folder_of(package).glob(pattern)}
    beside = [path for path in tracked() if path.parts[0] in FOLDERS and path.suffix != ".py" and path.name != ".gitkeep"]
    assert len(beside) >= 6 and [str(path) for path in beside if ROOT / path not in packed] == []


def test_no_folder_shadows_a_module() -> None:
    assert not (ROOT / "codecs" / "__init__.py").exists(), "the standard library's codecs would be replaced"
    assert not (ROOT / "laconic").exists(), "the installed package would be hidden"


@pytest.mark.parametrize("path", shipped(), ids=str)
def test_imports_go_one_way(path: Path) -> None:
    own = path.parts[0]
    allowed = {own, *MAY_IMPORT[own], *MAY_ALSO_IMPORT.get(path.as_posix(), set())}
    for module, line in imports_of(path):
        part = part_of(module)
        # `from .. import x` names the namespace itself on the way to x.
        if part is not None and module != "laconic":
            assert part in allowed, f"{path}:{line} imports {module}"


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each alphabetical: ruff's order."""
    rank = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return rank, name


def exported(tree: ast.Module) -> list[str] | None:
    """The value of `__all__`, or None where a module has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return None


def with_all() -> list[Path]:
    return [path for path in shipped() if exported(tree_of(path)) is not None]


@pytest.mark.parametrize("path", with_all(), ids=str)
def test_all_is_sorted(path: Path) -> None:
    names = exported(tree_of(path)) or []
    assert names == sorted(set(names), key=order)


@pytest.mark.parametrize("path", [path for path in with_all() if path.parts[0] in ("codecs", "entropy")], ids=str)
def test_all_is_what_is_public(path: Path) -> None:
    tree = tree_of(path)
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    public = {name for name in defined if not name.startswith("_")}
    assert public <= set(exported(tree) or []), "a public name is missing from __all__"
    bound = defined | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(exported(tree) or []) <= bound, "__all__ lists a name that the module does not bind"


def test_laconic_offers_what_it_lists() -> None:
    laconic = importlib.import_module("laconic")
    assert list(laconic.__all__) == sorted(laconic.__all__, key=order)
    for name in laconic.__all__:
        assert getattr(laconic, name) is not None


def test_importing_laconic_is_light() -> None:
    code = "import laconic, sys; print([m for m in ('torch', 'numba', 'fastapi', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_container_imports_no_arrays() -> None:
    for name in ("container", "header", "limits", "errors"):
        assert not {module.split(".")[0] for module, _ in imports_of(Path(f"codecs/{name}.py"))} & {"torch", "numpy"}


UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@pytest.mark.parametrize("path", shipped(), ids=str)
def test_nothing_is_unpickled(path: Path) -> None:
    found = [f"{line}: import {module}" for module, line in imports_of(path) if module.split(".")[0] in UNPICKLERS]
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called.endswith("torch.load") or given.get("allow_pickle", "False") != "False":
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if called in {"np.load", "numpy.load"} and given.get("allow_pickle") != "False":
            found.append(f"{node.lineno}: {called} without allow_pickle=False")
    assert found == []


@pytest.mark.parametrize("path", shipped(), ids=str)
def test_modules_and_functions_stay_short(path: Path) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= 400
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} is {length} lines long"


@pytest.mark.parametrize("path", shipped(), ids=str)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    bare = [
        node.name
        for node in tree_of(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []
    assert path.name == "__init__.py" or ast.get_docstring(tree_of(path))


# Spelt in pieces, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    "|".join(f"/{name}/" for name in ("w" + "ork", "f" + "arm", "opt/" + "wheels", "opt/" + "pypi", "ho" + "me"))
)
REGISTRIES = re.compile("|".join(("py" + r"pi\.org", "python" + r"hosted\.org", "--" + "index-url", "--extra-" + "index-url")))


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRIES], ids=["machine path", "registry"])
def test_the_source_names_no_machine_and_no_registry(pattern: re.Pattern[str]) -> None:
    found = []
    for path in tracked():
        if (ROOT / path).stat().st_size < 2_000_000 and b"\0" not in (content := (ROOT / path).read_bytes()):
            lines = content.decode(errors="replace").splitlines()
            found += [f"{path}:{number}: {line[:120]}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


@pytest.mark.parametrize("name", ["scripts/gpu-check", "scripts/serve", "scripts/test", "scripts/write-golden", ".ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_mode & 0o111 == 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
