"""Fetches the libraries of the dashboard from npm, as they are published: `python -m tools.vendor`.

Each is one file under services/gateway/static/vendor/ with its licence beside it; axe, which only tests use, is
in tests/fixtures/. Nothing is built: what a package calls its module is taken, its source map is not. Versions
are those below; their SHA-256 is what tests/tidy/test_vendor.py compares.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "services" / "gateway" / "static" / "vendor"
FIXTURES = ROOT / "tests" / "fixtures"
NPM_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Vendored:
    """One file of a package. after: put behind it, as uPlot's smallest file is no module by itself."""

    package: str
    version: str
    source: str
    name: str
    sha256: str
    folder: Path = STATIC
    after: str = ""

    @property
    def path(self) -> Path:
        return self.folder / self.name


FILES = (
    Vendored(
        "htm",
        "3.1.1",
        "preact/standalone.module.js",
        "preact-htm.js",
        "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7",
    ),
    Vendored(
        "uplot",
        "1.6.32",
        "dist/uPlot.iife.min.js",
        "uplot.js",
        "8301d1a4fcc08355d4ff7e8c87cc4a4e13cc4da93ba50a20816005488c0c5f6e",
        after="\nexport default uPlot;\n",
    ),
    Vendored(
        "uplot",
        "1.6.32",
        "dist/uPlot.min.css",
        "uplot.css",
        "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    ),
    Vendored(
        "marked",
        "18.2.1",
        "lib/marked.esm.js",
        "marked.js",
        "c622dc6824a1c92c2d10ea9ede2fc872e46128afcc34b298e6ddee6f387ace8e",
    ),
    Vendored(
        "axe-core",
        "4.14.1",
        "axe.min.js",
        "axe.min.js",
        "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
        folder=FIXTURES,
    ),
)
LICENCES = (
    ("htm", "3.1.1", "LICENSE", STATIC / "htm.LICENSE"),
    ("preact", "10.29.0", "LICENSE", STATIC / "preact.LICENSE"),
    ("uplot", "1.6.32", "LICENSE", STATIC / "uplot.LICENSE"),
    ("marked", "18.2.1", "LICENSE", STATIC / "marked.LICENSE"),
    ("axe-core", "4.14.1", "LICENSE", FIXTURES / "axe.LICENSE"),
)
"""htm's file has Preact in it."""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def package(name: str, version: str) -> dict[str, bytes]:
    """The files of a package by their paths in it."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", folder]
        subprocess.run(command, check=True, capture_output=True, timeout=NPM_TIMEOUT_S, cwd=folder)
        [packed] = Path(folder).glob("*.tgz")
        with tarfile.open(fileobj=io.BytesIO(packed.read_bytes())) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            return {
                member.name.partition("/")[2]: found.read()
                for member in members
                if (found := archive.extractfile(member)) is not None
            }


def without_map(content: bytes) -> bytes:
    """A script without the line that names its source map, which is not there."""
    lines = content.splitlines(keepends=True)
    return b"".join(
        line for line in lines if not line.startswith((b"//# sourceMappingURL", b"/*# sourceMappingURL"))
    )


def main() -> int:
    packages = {(name, version): package(name, version) for name, version, *_ in LICENCES}
    STATIC.mkdir(parents=True, exist_ok=True)
    changed = 0
    for file in FILES:
        content = without_map(packages[file.package, file.version][file.source]) + file.after.encode()
        file.path.write_bytes(content)
        if digest(content) != file.sha256:
            changed += 1
            print(f"{file.name}: sha256 is {digest(content)}")
    for name, version, source, path in LICENCES:
        path.write_bytes(packages[name, version][source])
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
