"""Imports run one way: no floor knows one above it, the core knows no ROS, the recogniser no training."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import TRAINING, run_walled, save_model

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "mmcl_core"

#: Highest floor first. A package stands for all its modules; modules of one floor may import each other.
FLOORS = {
    "train": 5, "evaluate": 5, "sweep": 5, "benchmark": 5, "export": 5, "recognize": 5,
    "engine": 4, "render": 4,
    "methods": 3, "synth": 3, "prepare": 3, "recognizer": 3,
    "nn": 2, "augment": 2, "imageops": 2, "colour": 2, "policy": 2, "randaugment": 2, "resample": 2, "config": 2,
    "data": 2, "weights": 2, "viewpoint": 2, "method_config": 2, "metrics": 2, "crops": 2, "cli": 2,
    "confusion": 2, "backend_torch": 2, "backend_onnx": 2,
    "atomic": 1, "errors": 1, "models": 1, "presets": 1, "progress": 1, "settings": 1, "modality": 1, "depth": 1,
    "metadata": 1, "words": 1,
}  # fmt: skip


def imports(path):
    """Names of all modules a file imports, at any depth of the code, less those for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ([node.module] if node.module != "mmcl_core" else [f"mmcl_core.{a.name}" for a in node.names])


def modules():
    return sorted(path for path in CORE.rglob("*.py") if path != CORE / "__init__.py")


def part_of(path):
    return path.relative_to(CORE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CORE)))
def test_no_floor_knows_one_above_it(path):
    own = part_of(path)
    assert own in FLOORS, f"{own} has no floor yet: enter it in FLOORS"
    for name in imports(path):
        root, _, rest = name.partition(".")
        assert root not in ("mmcl_ros", "rclpy"), f"{path.name} imports {name}"
        other = rest.partition(".")[0]
        if root == "mmcl_core" and other in FLOORS:
            assert FLOORS[other] <= FLOORS[own], f"{path.name} (floor {FLOORS[own]}) imports {name}"


def test_what_test_modules_share_is_in_none_of_them():
    for path in (ROOT / "test").glob("*.py"):
        assert not [name for name in imports(path) if name.startswith("test_")], path.name


def listed(tree):
    """What ``__all__`` lists; ``None`` without it."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def test_what_modules_take_from_each_other_is_in_all():
    paths = [*CORE.rglob("*.py"), *(ROOT / "mmcl_ros").rglob("*.py")]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): listed(tree) for path, tree in trees.items()}
    assert named["mmcl_core.recognizer"] == {"UNKNOWN", "Recognition", "Recognizer"}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (public := named.get(node.module)) is not None:
                missing = {alias.name for alias in node.names} - public
                assert not missing, f"{path.relative_to(ROOT)} takes {missing} from {node.module}"


def closure(name, seen=None):
    """All parts of the core that a part imports, directly or not."""
    seen = set() if seen is None else seen
    seen.add(name)
    place = CORE / name
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        for imported in imports(path):
            root, _, rest = imported.partition(".")
            part = rest.partition(".")[0]
            if root == "mmcl_core" and part in FLOORS and part not in seen:
                closure(part, seen)
    return seen


def test_the_recogniser_stands_on_little():
    parts = closure("recognizer")
    assert {"crops", "errors", "metrics", "weights", "nn"} <= parts
    assert not parts & {"engine", "methods", "synth", "data", "augment", "cli", "prepare"}


def test_ros_part_stands_on_the_recogniser_and_what_commands_share():
    allowed = closure("recognizer") | closure("confusion") | closure("cli") | {"recognizer", "confusion", "cli"}
    for path in (ROOT / "mmcl_ros").rglob("*.py"):
        more = {"synth"} if path.name == "record_demo.py" else set()  # it renders what it records
        parts = {name.split(".")[1] for name in imports(path) if name.startswith("mmcl_core.")}
        assert parts <= allowed | more, f"{path.name} imports {parts - allowed - more}"


def test_the_recogniser_works_without_the_training_modules(tmp_path):
    save_model(tmp_path / "weights.safetensors")
    answer = run_walled(tmp_path, TRAINING)
    assert answer.startswith("rgbd ")


def test_nothing_happens_at_import(tmp_path):
    """Importing every module writes nothing and says nothing."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules()]
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(ROOT)!r})\nfor name in {names}: importlib.import_module(name)"
    )
    result = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True,
                            cwd=tmp_path, check=False)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())
