"""Files of one JSON object a line, as traces are: written by `stoker bench` and `stoker record`."""

from pathlib import Path
from typing import TypeVar

import msgspec

Record = TypeVar("Record")


def read_json_lines(path: Path, kind: type[Record], wrong: type[ValueError]) -> list[Record]:
    """The records of a file; empty lines are left out. Raises OSError, `wrong` with the file and the line.

    Only a newline ends a line: U+2028 and its like may stand in JSON's strings.
    """
    records: list[Record] = []
    for number, line in enumerate(path.read_text().split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(msgspec.json.decode(line, type=kind))
        except msgspec.DecodeError as error:
            raise wrong(f"{path}:{number}: {error}") from error
    return records
