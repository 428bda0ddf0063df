"""Text to train the small tokenizer on: library, films, web pages, word problems, and what trajectories look like."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from openk2.synth import user_documents
from openk2.synth.make import Maker
from openk2.synth.names import Pieces
from openk2.synth.sources import Sources

EXAMPLES = 3000  # trajectories among the texts
TEMPLATE_WORDS = (
    "system user assistant tool Return of functions search calculator python open find query expression code line id"
    " Next"
)


def corpus(data: Path, seed: int = 0) -> Iterator[str]:
    """Texts, the same for the same seed. The template's own words come often, so that each becomes one token."""
    sources = Sources.load(data)
    rng = random.Random(seed)
    for page in sources.pages:
        yield "\n".join(page.lines)
    for film in rng.sample(sources.films, min(6000, len(sources.films))):
        document = user_documents.film_document(film)
        if document:
            yield "\n".join(document.lines)
    for page in sources.web:
        yield "\n".join(page.lines[:20])
    for problem in sources.mawps:
        yield problem.text
    for program in sources.gsm8k:
        yield program.text
    yield from sources.questions
    yield from [TEMPLATE_WORDS] * 4000
    for word in TEMPLATE_WORDS.split():
        yield from [word] * 4000
    known = sorted({w for page in sources.pages for w in page.title.split() if w.isalpha()})
    pieces = Pieces(tuple(known), ("a", "en", "is", "or"))
    maker = iter(Maker(sources, pieces, seed))
    for _ in range(EXAMPLES):
        for message in next(maker)["messages"]:
            yield message["content"]
            yield message.get("reasoning_content") or ""
            for call in message.get("tool_calls", ()):
                yield call["function"]["arguments"]
