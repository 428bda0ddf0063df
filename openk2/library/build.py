"""Make the embedded library: the CIA World Factbook (CC0) as plain text, one document a country.

    python -m openk2.library.build factbook.jsonl.gz

Each line is `Field - part: value`, so that one line can be found, read and cited by itself. Long texts are broken
at sentences into several lines that each repeat their field. Environment repeats lines of Geography: each is kept once.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openk2.tools.index import slug

FOLDER = Path(__file__).parent / "factbook"
WIDTH = 280  # characters of a line before its text is broken at a sentence

# The Factbook's own short names where a reader would look for another one.
NAMES = {
    "US": "United States", "UK": "United Kingdom", "DRC": "Democratic Republic of the Congo",
    "UAE": "United Arab Emirates", "Congo (Brazzaville)": "Republic of the Congo", "Turkey (Türkiye)": "Turkey",
    "The Gambia": "Gambia", "The Bahamas": "Bahamas", "The Dominican": "Dominican Republic",
    "Holy See (Vatican City)": "Vatican City", "Virgin Islands": "US Virgin Islands", "Macau": "Macao",
}  # fmt: skip
UNNAMED = {
    "xx.json": "World", "ee.json": "European Union", "ay.json": "Antarctica", "xq.json": "Arctic Ocean",
    "zh.json": "Atlantic Ocean", "xo.json": "Indian Ocean", "zn.json": "Pacific Ocean", "oo.json": "Southern Ocean",
}  # fmt: skip


def clean(text: str) -> str:
    """Plain text on one line; breaks become `;`."""
    text = re.sub(r"<br\s*/?>|</p>", " ; ", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\u2060", "")
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(\s*;)+\s*", "; ", text).strip(" ;")
    return re.sub(r"([.:!?]); ", r"\1 ", text)


def sentences(text: str) -> Iterator[str]:
    """Pieces of at most about WIDTH characters, broken after a sentence, else after `;` or `,`, else at a space."""
    while len(text) > WIDTH:
        window = text[: WIDTH + 1]
        cut = max((window.rfind(mark) + len(mark) for mark in (". ", "; ")), default=0)
        if cut < WIDTH // 3:
            cut = max(window.rfind(", ") + 2, window.rfind(" ") + 1)
        cut = cut if cut > 1 else WIDTH
        yield text[:cut].strip()
        text = text[cut:]
    if text.strip():
        yield text.strip()


def fields(prefix: str, node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(heading, text) of every text in a nested field."""
    for key, value in node.items():
        key = clean(key)
        if prefix and (key == prefix or key.startswith(prefix + " ")):
            heading = key  # "Real GDP per capita" > "Real GDP per capita 2023"
        else:
            heading = f"{prefix} - {key}" if prefix else key
        if isinstance(value, dict):
            if isinstance(value.get("text"), str):
                yield heading, value["text"]
            yield from fields(heading, {k: v for k, v in value.items() if k != "text"})
        elif isinstance(value, str):
            yield heading, value


def country_name(path: str, data: dict[str, Any]) -> str:
    """The name a reader would look for; `path` is the source file, for places that have no government."""
    names = data.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        name = clean(names.get(form, {}).get("text", ""))
        name = re.split(r"; | or |note:", name)[0].strip()
        if name.startswith("Baker Island"):
            return "US Pacific Island Wildlife Refuges"
        if name and name != "none":
            return NAMES.get(name) or re.sub(r" \((?!Keeling).*\)$", "", name)
    return UNNAMED.get(Path(path).name, Path(path).stem)


def document_lines(data: dict[str, Any]) -> list[str]:
    """The lines of one country, each once."""
    lines: list[str] = []
    seen: set[str] = set()
    for section in data.values():
        if not isinstance(section, dict):
            continue
        for heading, text in fields("", section):
            text = clean(text)
            part = heading.rsplit(" - ", 1)[-1].rsplit(": ", 1)[-1]
            text = re.sub(rf"^{re.escape(part)}: ", "", text)  # "arable land: 3.2%" under "arable land"
            for piece in sentences(text):
                line = f"{heading}: {piece}"
                if line not in seen:
                    seen.add(line)
                    lines.append(line)
    return lines


def build(source: Path, folder: Path = FOLDER) -> int:
    """Write one `slug.txt` per country: first line its name, then the lines. Returns the number of documents.

    Of places whose names give the same id, the last one stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: set[str] = set()
    with gzip.open(source, "rt", encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            name = country_name(row["path"], row["data"])
            lines = document_lines(row["data"])
            if not lines:
                continue
            (folder / f"{slug(name)}.txt").write_text("\n".join([name, *lines]) + "\n", encoding="utf-8")
            written.add(slug(name))
    return len(written)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit("usage: python -m openk2.library.build factbook.jsonl.gz")
    print(f"{build(Path(sys.argv[1]))} documents in {FOLDER}")
