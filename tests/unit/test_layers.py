"""What no linter checks: who asks a clock, how long code is, what a lock and a table hold."""

import ast
import re
from pathlib import Path

import pytest

import rotator

TOP = Path(rotator.__file__).parent
PURE = [*(TOP / "core").glob("*.py"), *(TOP / "protocol").glob("*.py"), TOP / "daemon" / "schedule.py"]


@pytest.mark.parametrize("module", PURE, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_the_core_never_looks_at_a_clock_of_its_own(module: Path) -> None:
    tree = ast.parse(module.read_text())
    asked = [
        node.func.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("now", "utcnow", "today", "monotonic", "time")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id != "clock"  # a local name of the port
    ]
    assert asked == []


@pytest.mark.parametrize("module", sorted(TOP.rglob("*.py")), ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_no_module_is_longer_than_400_lines_and_no_function_longer_than_70(module: Path) -> None:
    text = module.read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert len(text.splitlines()) <= 400
    assert [node.name for node in functions if node.end_lineno and node.end_lineno - node.lineno >= 70] == []


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt", "deploy/requirements-build.txt"])
def test_a_lock_names_no_index_and_nothing_without_a_hash(file: str) -> None:
    text = (Path(rotator.__file__).parents[1] / file).read_text()
    pins = [
        line for line in text.replace("\\\n", "").splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    assert pins
    assert [pin for pin in pins if not re.match(r"[a-z0-9-]+(\[\w,]+\])?==\S+ .*--hash=sha256:", pin)] == []


def test_the_renewal_alone_asks_when_a_window_opens_for_a_key() -> None:
    asking = {path.relative_to(TOP) for path in TOP.rglob("*.py") if re.search(r"\bopened_at\(", path.read_text())}
    defined, at_load = Path("core/windows.py"), Path("config/window_rules.py")
    assert asking - {defined, at_load} == {Path("core/renewal.py")}


def test_the_check_can_fail() -> None:
    tree = ast.parse("from datetime import datetime\nmoment = datetime.now()\n")
    assert any(isinstance(node, ast.Attribute) and node.attr == "now" for node in ast.walk(tree))


def test_the_architectures_table_has_every_package() -> None:
    document = (TOP.parent / "docs" / "architecture.md").read_text()
    rows = "".join(line.partition(" | ")[0] for line in document.splitlines() if line.startswith("| `"))
    packages = {f"{path.parent.name}/" for path in TOP.glob("*/__init__.py")} | {"demo.py"}
    assert set(re.findall("`([^`]+)`", rows)) == packages


VENDORS = re.compile("respan|litellm|openrouter|openai|portkey|fireworks|jupyterhub", re.IGNORECASE)
MAY_NAME_A_VENDOR = {
    "providers/registry.py",  # the table of the built-in types
    "demo.py",
    "cli/commands/simulated.py",
    "cli/app.py",  # the help of `rotator`
    "cli/tryout.py",  # the help of `simulate`
}


def test_no_vendor_is_named_outside_its_package_the_simulator_and_the_demo() -> None:
    inside = ("providers/respan/", "providers/http_provider/presets/", "simulator/")
    modules = {str(path.relative_to(TOP)): path for path in TOP.rglob("*.py")}
    naming = {
        name for name, path in modules.items() if VENDORS.search(path.read_text()) and not name.startswith(inside)
    }
    assert naming == MAY_NAME_A_VENDOR
