"""Which GPUs a launched replica is given, by the kind that its profile names."""

import pytest

from stoker.schemas.catalog import Gpu, ResourceProfile
from stoker.services.autoscaler.launchers.base import DEVICES, OutOfStock, cards_for
from stoker.services.process.devices import Card
from tests.contract.launcher_conformance import order

CARDS = [
    Card(uuid, name, 1)
    for uuid, name in (
        ("a", "NVIDIA L40S"),
        ("b", "NVIDIA L4"),
        ("c", "Tesla T4"),
        ("d", "NVIDIA A100-SXM4-80GB"),
        ("e", "NVIDIA L4"),
    )
]


def profile(count: int, kind: str = "") -> ResourceProfile:
    return ResourceProfile("p", "process", gpu=Gpu(count, kind))


@pytest.mark.parametrize(
    ("count", "kind", "taken", "given"),
    [
        (1, "", [], "a"),
        (2, "", ["a"], "bc"),
        (5, "", [], "abcde"),
        (1, "nvidia-gpu-l4", [], "b"),
        (2, "L4", [], "be"),
        (1, "l4", ["b"], "e"),
        (1, "nvidia-tesla-t4", [], "c"),
        (1, "a100", [], "d"),
        (1, "nvidia-a100-80gb", [], "d"),
    ],
)
def test_the_first_that_are_free_and_of_its_kind(count: int, kind: str, taken: list[str], given: str) -> None:
    assert cards_for(order("r", profile(count, kind)), CARDS, taken) == tuple(given)


@pytest.mark.parametrize(
    ("count", "kind", "taken", "said"),
    [
        (1, "l4", ["b", "e"], "0 GPUs of kind l4 are free, 1 needed"),
        (3, "l4", [], "2 GPUs of kind l4 are free, 3 needed"),
        (1, "h100", [], "0 GPUs of kind h100 are free"),
        (6, "", [], "5 GPUs are free, 6 needed"),
    ],
)
def test_too_few_are_a_stock_out(count: int, kind: str, taken: list[str], said: str) -> None:
    with pytest.raises(OutOfStock, match=said):
        cards_for(order("r", profile(count, kind)), CARDS, taken)


def test_none_is_given_to_who_needs_none_says_which_or_where_nothing_is_known() -> None:
    assert cards_for(order("r", ResourceProfile("p", "process")), CARDS, []) == ()
    assert cards_for(order("r", profile(1), **{DEVICES: "3"}), CARDS, []) == ()
    assert cards_for(order("r", profile(1)), [], []) == ()
