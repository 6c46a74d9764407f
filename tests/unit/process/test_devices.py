"""The device of a machine, by what its driver says: a script stands for `nvidia-smi`."""

from pathlib import Path

import pytest

from stoker.services.process import devices
from stoker.services.process.devices import find_device
from tests.fixtures.graphics import driver

MIB = 1024**2
TWO = "0, GPU-aa11, 23034, NVIDIA L4\n1, GPU-bb22, 81559, NVIDIA H100, of 80 GB\n"


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.Machine, "memory_bytes", lambda _: 100_000)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "gpus", "name", "memory"),
    [
        (None, 1, "NVIDIA L4", 23034),
        (None, 2, "2 x NVIDIA L4", 23034 + 81559),
        (None, 5, "2 x NVIDIA L4", 23034 + 81559),
        ("1", 1, "NVIDIA H100, of 80 GB", 81559),
        ("1,0", 1, "NVIDIA H100, of 80 GB", 81559),
        ("1, 0", 2, "2 x NVIDIA H100, of 80 GB", 23034 + 81559),
        ("GPU-bb", 1, "NVIDIA H100, of 80 GB", 81559),
        ("MIG-7", 1, "NVIDIA L4", 23034),
    ],
)
def test_the_first_cards_that_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: int, name: str, memory: int
) -> None:
    driver(tmp_path, monkeypatch, TWO)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = find_device(gpus)
    assert (found.name, found.memory_bytes, found.is_gpu) == (name, memory * MIB, True)


@pytest.mark.parametrize("visible", ["", "-1", " "])
def test_where_none_is_visible_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    driver(tmp_path, monkeypatch, TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert not find_device().is_gpu


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("No devices were found\n", ""),
        ("", ""),
        (TWO, "exit 9"),
        ("0, GPU-a, [N/A], NVIDIA L4\n", ""),
        ("", "sleep 30"),
    ],
)
def test_a_driver_that_does_not_work_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, more: str
) -> None:
    monkeypatch.setattr(devices, "QUERY_TIMEOUT_S", 0.5)
    driver(tmp_path, monkeypatch, said, more)
    found = find_device()
    assert not found.is_gpu and found.name.startswith("cpu (") and found.memory_bytes == 70_000
