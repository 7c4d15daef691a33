"""The caption of an emoji: natural lower-case English for what is drawn, from its record in the package's emoji.json.

Unicode names are no captions: BLACK and WHITE there mean filled and outlined, HEAVY means thick, and "SQUARED CJK
UNIFIED IDEOGRAPH-7533" is a button of Japanese shops. The table captions.txt is asked first, then the rule for the
record's kind; the rest keeps its name in lower case.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).with_name("captions.txt")
_PLURALS = {"man": "men", "woman": "women", "child": "children"}
_PLACES_WITH_ARTICLE = re.compile(
    r".* (islands|territories|territory|republic|emirates|kingdom|states|nations|union|netherlands)"
    r"|bahamas|comoros|gambia|isle of man|maldives|netherlands|philippines"
)


def caption(record: Mapping[str, object]) -> str:
    """The caption of one record of emoji.json, in lower-case ASCII: "red heart", "flag of bolivia", "keycap hash".

    The record needs name, short_name, subcategory. ASCII so that a prompt can be typed: "flag of curacao".
    """
    found = _table().get(str(record["short_name"]))
    if found is not None:
        return found
    name = _plain(str(record["name"]))
    match record["subcategory"]:
        case "country-flag" | "subdivision-flag":
            return _flag(name)
        case "zodiac":
            return f"{name} zodiac sign"
        case "time" if name.startswith("clock face "):
            hour = name.removeprefix("clock face ").replace("oclock", "o'clock").replace("-", " ")
            return f"clock showing {hour}"
        case "sky & weather":
            return name.removesuffix(" symbol")
        case "geometric":  # one size of a coloured circle or square is drawn, two of a diamond
            return re.sub(r"^large (\w+ (circle|square))$", r"\1", name)
    if name.startswith("family: "):
        return f"family of {_members(name.removeprefix('family: ').split(', '))}"
    name = re.sub(r"^(man|woman|person): (\w+ hair)$", r"\1 with \2", name)
    return re.sub(r"\b(wo)?mans\b", r"\1man's", name)


@cache
def _table() -> dict[str, str]:
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


def _plain(name: str) -> str:
    """The name in lower-case ASCII: no accents, no typographic quotes, "and" for "&"."""
    name = name.lower().replace("’", "'").replace("&", "and")
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")


def _flag(name: str) -> str:
    """From "bolivia flag": "flag of bolivia"; the article where English wants one: "flag of the united kingdom"."""
    place = name.removesuffix(" flag").replace("st. ", "saint ")
    article = "the " if _PLACES_WITH_ARTICLE.fullmatch(place) else ""
    return f"flag of {article}{place}"


def _members(people: Sequence[str]) -> str:
    """From ("man", "woman", "girl", "girl"): "a man, a woman and two girls"."""
    counts = Counter(people)
    words = [
        f"two {_PLURALS.get(who, who + 's')}" if num == 2 else f"{'an' if who[0] in 'aeiou' else 'a'} {who}"
        for who, num in counts.items()
    ]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
