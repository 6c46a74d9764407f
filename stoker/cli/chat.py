"""`stoker chat`: a conversation on the terminal.

A line is a message; three quotes begin one of several lines, and end it. Commands begin with a slash.
"""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from stoker import servers
from stoker.cli import asking, finding
from stoker.cli.app import app, fail
from stoker.cli.run import ask
from stoker.cli.watching import Answer

QUOTES = '"""'
HISTORY_LINES = 1000
HELP = """\
  /bye            end, as Ctrl-D does
  /clear          forget what was said
  /system TEXT    what the model is told before all else
  /history        what was said
  /help           this
  \"\"\"             begins a message of several lines, and ends it
  Ctrl-C          stops an answer"""


class Conversation:
    """What was said. system: "" = nothing."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.said: list[dict[str, Any]] = []

    def messages(self, text: str) -> list[dict[str, Any]]:
        """All that the model is to answer to, with a new message."""
        before = [{"role": "system", "content": self.system}] if self.system else []
        return [*before, *self.said, asking.user_message(text, [])]

    def answered(self, text: str, answer: str) -> None:
        self.said += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]

    def command(self, line: str) -> str | None:
        """What a line that begins with a slash says to the person; None: the end."""
        name, _, rest = line.partition(" ")
        match name:
            case "/bye" | "/exit" | "/quit":
                return None
            case "/clear":
                self.said = []
                return "what was said is forgotten"
            case "/system":
                self.system = rest.strip()
                return "the model is told so from now on" if self.system else "the model is told nothing"
            case "/history":
                return "\n".join(f"{one['role']}: {one['content']}" for one in self.said) or "nothing was said"
            case "/help" | "/?":
                return HELP
        return f"there is no {name}; /help shows what there is"


def messages(lines: Iterator[str]) -> Iterator[str]:
    """Messages out of lines: a line each, or what stands between two times three quotes."""
    for line in lines:
        if not line.lstrip().startswith(QUOTES):
            yield line.strip()
            continue
        parts = [line.lstrip().removeprefix(QUOTES)]
        while not parts[-1].rstrip().endswith(QUOTES):
            following = next(lines, None)
            if following is None:
                break
            parts.append(following)
        yield "\n".join(parts).rstrip().removesuffix(QUOTES).strip("\n")


def _typed() -> Iterator[str]:
    """Lines that a person types; those of before can be taken up again."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    import readline

    file = servers.state_folder() / "chat-history"
    file.parent.mkdir(parents=True, exist_ok=True)
    readline.set_history_length(HISTORY_LINES)
    if file.exists():
        readline.read_history_file(file)
    try:
        while True:
            try:
                yield input("> ")
            except KeyboardInterrupt:
                finding.say("\n(/bye or Ctrl-D ends)")
    except EOFError:
        finding.say("")
    finally:
        readline.write_history_file(file)
        file.chmod(servers.ONLY_OURS)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A name, a file (.gguf, folder), or hf://owner/name.")],
    url: finding.MayUrl = "",
    system: asking.System = "",
    max_tokens: asking.MaxTokens = None,
    temperature: asking.Temperature = None,
    top_p: asking.TopP = None,
    top_k: asking.TopK = None,
    min_p: asking.MinP = None,
    stop: asking.Stop = None,
    seed: asking.Seed = None,
    engine: finding.Engine = "",
) -> None:
    """Talk to a model: it remembers what was said; /bye ends.

    Three quotes begin a message of several lines and end it; Ctrl-C stops an answer; /help shows the rest.
    """
    asked = finding.locate(model, url, engine)
    if "TextGeneration" not in asked.card["features"]:
        fail(f"{model} writes no text: `stoker run` asks it")
    options = asking.Options(seed, max_tokens, temperature, top_p, top_k, min_p, tuple(stop or ()))
    conversation = Conversation(system)
    if sys.stdin.isatty():
        finding.say(f"{asked.name} at {asked.url}; /help shows what can be said")
    for text in messages(_typed()):
        if text.startswith("/"):
            told = conversation.command(text)
            if told is None:
                return
            finding.say(told)
        elif text:
            _turn(conversation, text, model, url, engine, options)


def _turn(
    conversation: Conversation, text: str, model: str, url: str, engine: str, options: asking.Options
) -> None:
    """One message and its answer; one that is stopped or fails is not remembered, and the talk goes on.

    The server is looked for each time: one that has ended while nobody spoke is started again.
    """
    try:
        asked = finding.locate(model, url, engine)
        given = {"messages": conversation.messages(text), **options.fields()}
        answer: Answer = ask(asked, given)[0]
    except typer.Exit:  # what was wrong is said
        return
    conversation.answered(text, answer.text)
    finding.say(answer.summary())
