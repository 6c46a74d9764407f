"""Weights within a prompt, as A1111 writes them: which part of a text counts how much. Pure.

`(x:1.3)` multiplies by 1.3, `(x)` by 1.1, `[x]` by 1 / 1.1; nested ones multiply. A backslash before a bracket,
or before another backslash, makes it text. `BREAK` ends a piece of 75 tokens. A bracket that is never closed
holds to the end; one that was never opened is text. What A1111 does besides, with steps (`[from:to:0.5]`,
`[a|b]`) or with several prompts (`AND`), is text here, and told (`unknown_syntax`).

Source: A1111's modules/prompt_parser.py, `parse_prompt_attention`.
"""

import re
from dataclasses import dataclass, field

ROUND, SQUARE = 1.1, 1 / 1.1
MAX_NESTED = 32
"""Brackets within brackets; those further in are text. So reading takes time in proportion to the text."""
_PART = re.compile(
    r"""\\[()\[\]\\] | \\ | [(\[] | :\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\) | [)\]] | [^\\()\[\]:]+ | :""",
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b")
_EDITING = re.compile(r"\[[^\[\]]*:\s*[.0-9]+\s*\]|\[[^\[\]|]*\|")
_AND = re.compile(r"\bAND\b")


@dataclass(frozen=True, slots=True)
class Run:
    """A part of a prompt without its brackets, and its weight: 1.0 unless brackets say otherwise."""

    text: str
    weight: float = 1.0


@dataclass(slots=True)
class _Growing:
    """A run that is being read."""

    parts: list[str] = field(default_factory=list)
    weight: float = 1.0


Section = tuple[Run, ...]
"""What stands between two BREAKs: runs, of which neighbours differ in weight."""


def parsed(prompt: str) -> tuple[Section, ...]:
    """The sections of a prompt, one at least; any text has some. A section may be empty."""
    runs: list[_Growing] = []
    found: list[list[_Growing]] = [[]]
    opened: dict[str, list[int]] = {"(": [], "[": []}
    is_going_on = False  # no bracket since the last text

    def put(text: str) -> None:
        nonlocal is_going_on
        if not is_going_on:
            runs.append(_Growing())
            found[-1].append(runs[-1])
        runs[-1].parts.append(text)
        is_going_on = True

    def close(start: int, weight: float) -> None:
        for run in runs[start:]:
            run.weight *= weight

    for match in _PART.finditer(prompt):
        part, weight = match[0], match[1]
        is_bracket = True
        if part in opened and len(opened[part]) < MAX_NESTED:
            opened[part].append(len(runs))
        elif weight is not None and opened["("]:
            close(opened["("].pop(), float(weight))
        elif part == ")" and opened["("]:
            close(opened["("].pop(), ROUND)
        elif part == "]" and opened["["]:
            close(opened["["].pop(), SQUARE)
        else:
            is_bracket = False
            first, *others = [part[1:]] if part.startswith("\\") else _BREAK.split(part)
            put(first)
            for other in others:
                found.append([])
                is_going_on = False
                put(other)
        is_going_on = is_going_on and not is_bracket
    for start in opened["("]:
        close(start, ROUND)
    for start in opened["["]:
        close(start, SQUARE)
    return tuple(_merged([Run("".join(run.parts), run.weight) for run in section]) for section in found)


def _merged(runs: list[Run]) -> Section:
    """The same text; neighbours of one weight are one run, and empty ones are gone."""
    kept: list[Run] = []
    for run in runs:
        if not run.text:
            continue
        if kept and kept[-1].weight == run.weight:
            run = Run(kept.pop().text + run.text, run.weight)
        kept.append(run)
    return tuple(kept)


def has_weights(prompt: str) -> bool:
    """Whether a prompt is more than text: it has weights, or BREAKs."""
    sections = parsed(prompt)
    return len(sections) > 1 or any(run.weight != 1.0 for run in sections[0])


def plain(prompt: str) -> str:
    """The text of a prompt, without its brackets, weights and BREAKs."""
    return " ".join("".join(run.text for run in section) for section in parsed(prompt))


def unknown_syntax(prompt: str) -> str:
    """What of A1111's syntax a prompt has that is drawn as text here; "" where there is none."""
    found = [
        name
        for pattern, name in ((_EDITING, "[from:to:when] and [a|b]"), (_AND, "AND"))
        if pattern.search(prompt)
    ]
    return " and ".join(found)
