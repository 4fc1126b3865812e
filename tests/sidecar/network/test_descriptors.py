"""How the file descriptors of the process are shared out."""

import resource

import pytest

from datafile_sidecar.network.descriptors import DescriptorLimits, descriptor_limits


@pytest.mark.parametrize("descriptors", [1344, 1 << 20, resource.RLIM_INFINITY])
def test_enough(descriptors: int) -> None:
    """A usual limit changes nothing."""
    assert descriptor_limits(descriptors) == DescriptorLimits(connections=256, workers=256, posts=256)


@pytest.mark.parametrize("descriptors", [128, 256, 512, 1024, 1343])
def test_few(descriptors: int) -> None:
    """Together they leave descriptors for files, and each has some."""
    limits = descriptor_limits(descriptors)
    assert 2 * limits.connections + limits.workers + 2 * limits.posts <= descriptors - 64
    assert min(limits.connections, limits.workers) >= descriptors // 10
    assert limits.posts >= 2


@pytest.mark.parametrize("descriptors", [0, 64])
def test_too_few(descriptors: int) -> None:
    """With next to none, a few connections are still tried."""
    assert descriptor_limits(descriptors) == DescriptorLimits(connections=2, workers=2, posts=2)


def test_the_process_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit that counts is the one of this process that holds now."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    assert descriptor_limits() == descriptor_limits(256)
