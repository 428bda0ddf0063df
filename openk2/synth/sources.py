"""The source files of the recipe, loaded; what is held out is left out here, before anything is generated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openk2.library import documents
from openk2.synth import user_documents
from openk2.synth.heldout import MAWPS_FOLD
from openk2.synth.maths.problems import gsm8k_programs, mawps_programs
from openk2.synth.maths.program import Program
from openk2.synth.maths.short import is_short
from openk2.synth.reach import load_table_questions
from openk2.synth.worlds import training_documents
from openk2.tools.index import Document


@dataclass(frozen=True)
class Sources:
    """Everything examples are made from; the folder comes from the command line, nothing is downloaded."""

    pages: list[Document]
    titles: list[str]  # of all countries, held out or not: names are no facts
    mawps: list[Program]
    gsm8k: list[Program]
    films: list[user_documents.Film]
    web: list[Document]
    questions: list[str]

    @classmethod
    def load(cls, data: Path) -> Sources:
        """Raises UserError for a file that is missing or damaged."""
        return cls(
            pages=training_documents(),
            titles=[page.title for page in documents()],
            mawps=[p for p in mawps_programs(data) if p.fold != MAWPS_FOLD],
            gsm8k=[p for p in gsm8k_programs(data) if is_short(p)],
            films=user_documents.load_films(data / "movies.jsonl.gz"),
            web=user_documents.load_pages(data / "wikipedia_pages.jsonl.gz"),
            questions=load_table_questions(data / "table_questions_train.jsonl.gz"),
        )
