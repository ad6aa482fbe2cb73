"""What Twenty Questions knows: `things.tsv` and `kinds.tsv`, and in the `.txt` files what is true of them."""

from llm_envs.games.twenty_questions.knowledge.table import Knowledge, Thing, load_knowledge, regular_plural

__all__ = ["Knowledge", "Thing", "load_knowledge", "regular_plural"]
