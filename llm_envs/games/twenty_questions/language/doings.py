"""What people do with a thing, what it is for, and where it is found."""

import re

from llm_envs.games.twenty_questions.language.lexicon import Vector, both, invert, narrow
from llm_envs.games.twenty_questions.language.reader import Reader
from llm_envs.games.twenty_questions.language.rewriting import FIND_VERBS, IT, PREPOSITIONS
from llm_envs.games.twenty_questions.language.words import word_set

__all__ = ["Doings"]

# To be in these is not to be on them.
_NEITHER_IN_NOR_ON = word_set(
    "earth ground soil water dirt head face body sky air space wall box pocket hand tree table top sea"
)
_ANY_OF_THEM = word_set(
    "most many every average normal typical people everyone ordinary regular standard a an the your my"
)
_ADVERBS = re.compile(
    r"^(?:(?:ever|normally|usually|often|typically|generally|commonly|all|sometimes|actually|always|be able "
    r"to|get to|easily) )+"
)
_CALLED = re.compile(
    r"^(?:call|consider|describe|classify|regard|count|categorize) it (?:as |to be "
    r")?(?:being )?(.+)$"
)
_ONE = re.compile(r" one(?= (?:in|on|at|with|for|to|when|as|every)\b|$)")
_INSIDE_IT = re.compile(r"^(?:find|see|have|keep) (.+) (?:in|on|inside) it$")
_TO_USE_IT = re.compile(r" to (?:use|operate|play|drive|wear|make|turn on|power)(?: it)?$")
_AGENT = re.compile(r"(?:^| )by (?:people|humans|man|us|someone|a person|a human|most people|hand)(?= |$)")
_PURPOSES = word_set("to for in when while as on with by during")
_PLACES = word_set("outdoors indoors underground outside inside overhead")


class Doings(Reader):
    """Readings that are about more than the thing. A part of `Grammar`."""

    def _people(self, words: list[str]) -> Vector | None:
        """What people do with it, verb first; "it" is left out."""
        text = _ADVERBS.sub("", " ".join(words))
        if text.startswith(("not ", "never ")):
            answers = self._people(text.split()[1:])
            return None if answers is None else invert(answers)
        said = _CALLED.match(text)
        if said:
            return self._complement(said[1].split())
        words = _ONE.sub("", text).split()
        words = [word for word in words if word not in {"it", "them", "itself"}]
        if not words:
            return None
        first, rest = self._words.lemma(words[0]), words[1:]
        if first == "use" and len(rest) > 1 and rest[0] in _PURPOSES:
            return self._used(rest)
        if first == "make" and rest[:1] in (["of"], ["from"], ["out"]):
            return self._look("p make " + self._lemmas(rest))
        if first in FIND_VERBS and len(rest) > 1 and rest[0] in PREPOSITIONS and rest[0] not in {"by"}:
            return self._place(rest[:1], rest[1:])
        if first in FIND_VERBS | {"use"} and rest and rest[0] in _PLACES:
            return self._place(["in"], rest)
        key = self._lemmas([first, *rest])
        answers = self._look("p " + key)
        if answers is None:
            answers = self._done(first, rest, text)
        if answers is None and rest[-1:] == ["with"] and len(rest) > 1:
            answers = self._used(["to", first, *rest[:-1]])
        return answers

    def _done(self, verb: str, rest: list[str], text: str) -> Vector | None:
        """What people do, where the lexicon lacks the whole."""
        if rest and rest[-1] in {"in", "inside", "at", "into", "to"}:
            return self._lexicon.get("p " + self._lemmas([verb, *rest[:-1], "there"]))
        if rest and rest[-1] == "there":
            return self._lexicon.get("p " + self._lemmas([verb, *rest[:-1], "in"]))
        if rest and rest[-1] == "with":
            return self._lexicon.get("u " + self._lemmas([verb, *rest[:-1]]))
        if verb in {"fit", "put", "carry", "take", "pack"} and rest and rest[0] in {"in", "into", "inside"}:
            return self._measures.fits(" ".join(rest[1:]))
        if verb in {"need", "require"} and rest:
            needed = _TO_USE_IT.sub("", " ".join(rest)).split()
            answers = self._look("need " + self._lemmas(needed))
            answers = None if answers is None else both(answers, self._objects)
            return answers if answers is not None and answers.max() > 0 else None  # what needs food is not used with it
        inside = _INSIDE_IT.match(text)
        if inside:
            return self._lexicon.get("have " + self._lemmas(inside[1].split()))
        return self._lexicon.get("be " + self._lemmas([verb, *rest])) if verb in {"spot", "stripe"} else None

    def _used(self, words: list[str]) -> Vector | None:
        """What it is for: ``to cut``, ``for cutting``, ``in the kitchen``, ``by children``."""
        first, rest = words[0], words[1:]
        if not rest:
            answers = self._look("u " + self._lemmas(words))
            return self._place(["in"], words) if answers is None and first in PREPOSITIONS else answers
        if first == "when" and rest[0] in IT and len(rest) > 1:
            rest = rest[1:]
        if first == "by" and rest[0] not in self._words.gerunds:
            if rest[0] in IT:
                return self._people(["use", *rest[1:]])
            return self._look("s " + self._lemmas([*rest, "use"]))
        verb = self._words.verb(rest[0])
        if first in {"to", "for", "in", "when", "while", "by", "during"} and (
            rest[0] in self._words.gerunds or first in {"to", "when"}
        ):
            answers = self._look("u " + self._lemmas([verb, *rest[1:]]))
            if answers is None:
                answers = self._lexicon.get("p " + self._lemmas([verb, *rest[1:], "with"]))
            if answers is None and len(rest) in (2, 3) and self._words.lemma(rest[-1]) in self._known_words:
                wider = self._lexicon.get("u " + verb)
                answers = None if wider is None else narrow(wider)
            if answers is None and rest[-1] in {"with", "things", "something", "on"}:
                answers = self._used([first, *rest[:-1]]) if len(rest) > 1 else None
            return answers
        key = self._lemmas(rest)
        answers = self._look(f"u {key}" if first in {"for", "in"} else f"u {first} {key}")
        if answers is None and first in PREPOSITIONS:
            answers = self._place([first], rest)
        return answers

    def _passive(self, words: list[str]) -> Vector | None:
        """``worn on the feet``, ``made of metal``, ``used by children``."""
        verb, rest = self._words.participles[words[0]], words[1:]
        if verb in {"make", "compose", "build", "construct"} and rest[:1] in (["of"], ["from"], ["out"], ["up"]):
            return (
                self._look("be make " + self._lemmas(rest))
                if rest[:2] != ["up", "of"]
                else self._look("be make " + self._lemmas(rest[1:]))
            )
        text = " ".join(rest)
        agent = _AGENT.search(text)
        if agent and not (verb in {"make", "hold"} and "hand" in agent[0]):
            rest = (text[: agent.start()] + text[agent.end() :]).split()
        elif rest[:1] == ["by"] and len(rest) > 1:
            answers = self._look("be " + self._lemmas(words))
            return answers if answers is not None else self._look("s " + self._lemmas([*rest[1:], verb]))
        return self._people([verb, *rest])

    def _place(self, preposition: list[str], words: list[str]) -> Vector | None:
        """Where it is found. Most prepositions say the same."""
        kept = (
            [] if preposition[0] in PREPOSITIONS[:6] else ["on"] if preposition[0] in PREPOSITIONS[6:9] else preposition
        )
        answers = self._look("@ " + self._lemmas([*kept, *words]))
        if answers is None and words and words[0] in _ANY_OF_THEM:
            rest = words[1:]
            return self._place(preposition, rest[1:] if rest[:1] == ["'s"] else rest) if rest else None
        if (
            answers is None
            and preposition[0] in PREPOSITIONS[:9]
            and words[-1:]
            and words[-1] not in _NEITHER_IN_NOR_ON
        ):
            answers = self._lexicon.get("@ " + ("" if kept else "on ") + self._lemmas(words))
        return answers

    def _related(self, words: list[str]) -> Vector | None:
        answers = self._look("r " + self._lemmas(words))
        if answers is None and words and words[0] in self._words.gerunds:
            answers = self._lexicon.get("u " + self._lemmas([self._words.verb(words[0]), *words[1:]]))
        return answers
