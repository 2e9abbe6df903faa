"""The launch files, and what they declare."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECOGNIZER, DEMO = ROOT / "launch" / "recognizer.launch.py", ROOT / "launch" / "demo.launch.py"
#: Of parameters, in the launch file, and their type.
TABLES = {"PARAMETERS": str, "NUMBERS": float, "COUNTS": int, "SWITCHED": bool}


def installed(name):
    """The folder launch/ of the repository would pass for the package, so ask for a module inside."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


HAS_LAUNCH = installed("launch.actions") and installed("launch_ros.actions")
needs_launch = pytest.mark.skipif(not HAS_LAUNCH, reason="launch and launch_ros are not installed (no wheels on PyPI)")


def declared(path):
    """Names and keywords of the launch arguments that a file declares literally, and the tables of the recognizer."""
    tree = ast.parse(path.read_text())
    names = {}
    for node in ast.walk(tree):
        call = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DeclareLaunchArgument"
        if call and isinstance(node.args[0], ast.Constant):
            names[node.args[0].value] = {keyword.arg for keyword in node.keywords}
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in TABLES:
            names |= {name: {"description"} for name in ast.literal_eval(node.value)}
    return names


def launch_file(path):
    """The module of a launch file."""
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
