"""Two hundred edits of a modes file, of every kind, while two gateways are asked for their modes all the time.

Whatever an edit does to the file on its way, no request sees anything but a version that was written as a whole, no
gateway goes back to an earlier one, and the last good one is in use in the end, with the reason why the file is
another. The watcher, the bucket and both gateways are the real ones.
"""

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.load import load
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.reloading import Reloading
from stoker.services.process.tasks import TaskOwner
from tests.contract.conftest import Connect
from tests.contract.test_reloading import BOMB
from tests.fixtures.gateway_app import Backend, Served, soon

EDITS = 200
WAIT_EVERY = 8
"""One edit of so many is a good one that is waited for; the others follow each other as chance has it."""
PAUSES_S = (0.0, 0.0, 0.01, 0.05, 0.2)


def version(number: int) -> str:
    """A modes file. What makes it valid stands last: a part of it from the beginning is no modes file."""
    modes = "".join(
        f"  m{mode}: {{model: x, default_size: 64x{8 * number}}}\n" for mode in range(1 + number % 9)
    )
    return f"model_root: /nowhere\nmodes:\n{modes}default_mode: m0\n"


def versions_of(body: Any) -> set[int]:
    """The numbers of the versions that an answer of GET /api/modes is made of; exactly one where all is well."""
    heights = {int(mode["default_size"].split("x")[1]) for mode in body["modes"].values()}
    numbers = {height // 8 for height in heights}
    for number in numbers:
        assert len(body["modes"]) == 1 + number % 9, f"{len(body['modes'])} modes of version {number}"
    assert body["default_mode"] == "m0"
    return numbers


class Editor:
    """Changes the file `modes.yaml` of a folder in the ways that people and programs do. count: of swaps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "modes.yaml"
        self.count = 0

    def rename(self, content: str) -> None:
        temporary = self.folder / "modes.yaml.tmp"
        temporary.write_text(content)
        temporary.rename(self.file)

    def swap(self, content: str) -> None:
        """As Kubernetes does; a file that is there instead of the link is replaced by it first."""
        self.count += 1
        target = self.folder / f"..{self.count}"
        target.mkdir()
        (target / "modes.yaml").write_text(content)
        (self.folder / "..data_tmp").symlink_to(target.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        if not self.file.is_symlink():
            (self.folder / "link").symlink_to("..data/modes.yaml")
            (self.folder / "link").rename(self.file)

    def truncate(self, content: str) -> None:
        """In the file itself, in pieces: a reader may find any part of it, and nothing."""
        self._whole()
        with self.file.open("wb", buffering=0) as opened:
            for start in range(0, len(content), 50):
                opened.write(content[start : start + 50].encode())

    def in_place(self, content: str) -> None:
        """Over what is there, then cut: for a moment the end is that of the version before."""
        self._whole()
        with self.file.open("rb+" if self.file.exists() else "wb", buffering=0) as opened:
            opened.write(content.encode())
            opened.truncate()

    def backup(self, content: str) -> None:
        """As vim does: away, then another file of the name."""
        if self.file.exists():
            self.file.rename(f"{self.file}~")
        self.file.write_text(content)

    def delete(self, _: str = "") -> None:
        self.file.unlink(missing_ok=True)

    def _whole(self) -> None:
        if self.file.is_symlink() and not self.file.exists():
            self.file.unlink()


BROKEN = (
    "", "null\n", "{}\n", "modes:\n", "# nothing\n", "model_root: /nowhere\nmodes: {m0: {model: x}}\n",
    "modes: [", "\x00", BOMB.read_text(), version(3).replace("default_mode: m0", "default_mode: gone"),
    version(4).replace("64x", "nowhere"),
)  # fmt: skip


class Asking:
    """Asks gateways for their modes until it is ended. newest: the version that each showed last."""

    def __init__(self, gateways: list[Served]) -> None:
        self.gateways = gateways
        self.newest = [0] * len(gateways)
        self.answers = 0
        self.wrong: list[str] = []

    async def run(self) -> None:
        while True:
            for index, gateway in enumerate(self.gateways):
                answer = await gateway.ask("GET", "/api/modes")
                self.answers += 1
                self._judge(index, answer.status, answer.json())
            await asyncio.sleep(0.001)

    def _judge(self, index: int, status: int, body: Any) -> None:
        try:
            assert status == 200, f"{status}: {body}"
            [number] = versions_of(body)
            assert number >= self.newest[index], f"back from {self.newest[index]} to {number}"
            self.newest[index] = number
        except (AssertionError, ValueError) as error:
            self.wrong.append(f"gateway {index}: {error}")


@asynccontextmanager
async def gateways(connected: Connect, file: Path) -> AsyncIterator[list[Served]]:
    """Two: the first watches the file, the second has only the bucket."""
    async with connected("one") as one, connected("two") as two, TaskOwner("test") as tasks:
        await declare(one)
        reloading = Reloading(one, [file], name="one")
        await reloading.reload()
        found: list[Served] = []
        for bus, name, own in ((one, "one", reloading), (two, "two", None)):
            gateway = Gateway(bus, name, 100, 64, own)
            watching = partial(store.watch, bus, gateway.model_changed, gateway.fleet.catalog_read)
            tasks.start(watching, gateway.fleet.noted)
            await gateway.fleet.catalog_read.wait()
            found.append(Served(gateway, Backend(bus)))
        tasks.start(reloading.watch)
        yield found


def plan(chance: random.Random, editor: Editor) -> Iterator[tuple[Callable[[str], None], str, int]]:
    """Ways and contents of the edits, and the number of the version; 0: a broken one."""
    ways = (editor.rename, editor.swap, editor.truncate, editor.in_place, editor.backup)
    number = 1
    for edit in range(1, EDITS + 1):
        is_good = edit % WAIT_EVERY == 0 or chance.random() < 0.6
        if is_good:
            number += 1
            yield chance.choice(ways), version(number), number
        elif chance.random() < 0.1:
            yield editor.delete, "", 0
        else:
            yield chance.choice(ways), chance.choice(BROKEN), 0


@pytest.mark.slow
async def test_no_request_ever_sees_a_state_that_was_in_no_file(connected: Connect, tmp_path: Path) -> None:
    seed = int(os.environ.get("STOKER_TEST_SEED", "7"))
    chance = random.Random(seed)
    editor = Editor(tmp_path)
    editor.rename(version(1))
    async with gateways(connected, editor.file) as served, TaskOwner("asking") as tasks:
        asking = Asking(served)
        tasks.start(asking.run)
        last_good = 1
        for edit, (way, content, number) in enumerate(plan(chance, editor), 1):
            await asyncio.to_thread(way, content)
            last_good = number or last_good
            if edit % WAIT_EVERY == 0:
                await soon(lambda wanted=number: asking.newest == [wanted, wanted], f"edit {edit}, seed {seed}")
            else:
                await asyncio.sleep(chance.choice(PAUSES_S))
            assert asking.wrong == [], f"edit {edit} ({way.__name__}), seed {seed}"
        assert asking.newest == [last_good, last_good], "the last edit is one that is waited for"

        editor.rename(BROKEN[-1])
        answered = [await failed(gateway) for gateway in served]
        assert answered[0] == answered[1]
        assert answered[0]["file"] == str(editor.file)
        assert re.fullmatch(r"modes\.m0\.default_size", answered[0]["field"])
        assert asking.newest == [last_good, last_good]
        assert asking.wrong == []
    assert asking.answers > EDITS


async def failed(gateway: Served) -> Any:
    """Why the configuration was not taken, as soon as the gateway knows."""

    async def told() -> Any:
        answer = await gateway.ask("GET", "/api/models/status")
        return answer.json()["configuration"]["failed"]

    return await soon(told, "the reason")


@pytest.mark.parametrize("number", range(1, 10))
def test_no_beginning_of_a_version_is_taken_for_one(tmp_path: Path, number: int) -> None:
    """What the test above relies on: the watcher cannot tell a part that is valid from the whole."""
    file = tmp_path / "modes.yaml"
    whole = version(number)
    for length in range(0, len(whole) - len("m0\n"), 5):
        file.write_text(whole[:length])
        with pytest.raises(ConfigurationError):
            load([file], {})
    file.write_text(whole)
    assert len(load([file], {}).models) == 1 + number % 9
