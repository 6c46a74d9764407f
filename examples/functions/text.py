"""A text function that streams: what it yields reaches the caller as it comes."""

from collections.abc import AsyncIterator

import msgspec

from stoker import ActionContext, ResourceRequirements, worker_function


class Story(msgspec.Struct):
    subject: str
    sentences: int = 3


class Sentence(msgspec.Struct):
    text: str


@worker_function(ResourceRequirements(concurrency=100))
async def tell(ctx: ActionContext, payload: Story) -> AsyncIterator[Sentence]:
    """Tell a short story, sentence by sentence."""
    for index in range(payload.sentences):
        ctx.progress(index + 1, payload.sentences)
        yield Sentence(f"{payload.subject.capitalize()} went on, for the {index + 1}. time.")
