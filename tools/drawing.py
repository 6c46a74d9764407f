"""The drawing of who imports whom, made from the code and written into docs/architecture.md.

python -m tools.drawing         # writes it; tests/tidy/test_drawing.py fails where it is not up to date

Rooms are packages, and modules where a package has none; an arrow means that something in one imports something
in the other, directly; where a longer way leads there too, the arrow is left out, and so is, inside a service,
what every room imports (schemas, process).
"""

from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawing: made by tools/drawing.py -->", "<!-- end of the drawing -->"
SERVICES = ("gateway", "scheduler", "worker", "autoscaler")
SHARED = ("catalog", "records", "bus", "process")
EVERYWHERE = ("schemas", "services.process")


def _floor_of(module: str) -> str:
    """The node of the first drawing that a module belongs to."""
    _, *parts = module.split(".")
    match parts:
        case ["schemas", *_]:
            return "schemas"
        case ["services", service, *_]:
            return f"services.{service}"
        case ["services"] | []:
            return ""
    return "stoker.functions" if parts[0] == "functions" else "stoker"


def _room_of(module: str, service: str) -> str:
    """The node of a service's drawing that a module belongs to; "" for what is left out."""
    own = f"stoker.services.{service}"
    if module.startswith(own + "."):
        rest = module[len(own) + 1 :].split(".")
        return rest[0] if rest[0] != "__main__" else ""
    floor = _floor_of(module)
    return floor if floor not in (*EVERYWHERE, "", "stoker", "stoker.functions") else ""


def _arrows(graph: grimp.ImportGraph, node_of: "dict[str, str]") -> list[tuple[str, str]]:
    """Between different nodes, each once, in a fixed order."""
    found = set()
    for importer, source in node_of.items():
        for imported in graph.find_modules_directly_imported_by(importer):
            target = node_of.get(imported, "")
            if source and target and source != target:
                found.add((source, target))
    return sorted(found)


def _reduced(arrows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the arrows that a longer way says already; where there is a circle, all of them."""
    targets: dict[str, set[str]] = {}
    for source, target in arrows:
        targets.setdefault(source, set()).add(target)

    def reached(start: str, without: str = "") -> set[str]:
        seen: set[str] = set()
        waiting = [one for one in targets.get(start, ()) if one != without]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += targets.get(node, ())
        return seen

    if any(node in reached(node) for node in targets):
        return arrows
    return [(source, target) for source, target in arrows if target not in reached(source, without=target)]


def _mermaid(arrows: list[tuple[str, str]]) -> str:
    lines = [f"    {_short(source)} --> {_short(target)}" for source, target in _reduced(arrows)]
    return "```mermaid\nflowchart TD\n" + "\n".join(lines) + "\n```\n"


def _short(name: str) -> str:
    return name.removeprefix("services.").replace(".", "_")


def drawing() -> str:
    """The section of the page, between its two marks."""
    graph = grimp.build_graph("stoker", cache_dir=None)
    modules = sorted(graph.modules)
    floors = _arrows(graph, {module: _floor_of(module) for module in modules})
    parts = [f"The floors ({len(floors)} arrows, those of a longer way included):\n\n{_mermaid(floors)}"]
    for service in SERVICES:
        rooms = {
            module: _room_of(module, service)
            for module in modules
            if module.startswith(f"stoker.services.{service}.")
            or _floor_of(module) in map("services.{}".format, SHARED)
        }
        inside = [
            (source, target) for source, target in _arrows(graph, rooms) if not source.startswith("services.")
        ]
        parts.append(f"The {service} ({len(inside)} arrows):\n\n{_mermaid(inside)}")
    return "\n".join(parts)


def replaced(page: str) -> str:
    """The page with the drawing as the code is now. Raises ValueError where its marks are missing."""
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f"{page[:begin]}\n\n{drawing()}\n{page[end:]}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
