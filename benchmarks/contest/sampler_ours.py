"""This project's sampler and transformers' generate(): asked by `benchmarks.sampler`, see `process`.

Both have the adapter beside the weights, not merged into them; ours may also have none. Ours notes the logprob of every
token, as training needs it; generate() does not.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from benchmarks.contest.bare import stand_in
from benchmarks.contest.process import serve

if TYPE_CHECKING:
    from trainers.policy import Policy

_NO_TOKEN = -1


class Contender:
    """One of the two, once it was told which, and of what model."""

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._is_ours = True
        self._sampler: Any = None
        self._off = ExitStack()

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Open, or sample: seconds and tokens."""
        if "model" in question:
            return self._open(question)
        rows = len(question["prompts"]) * question["group_size"]
        started = time.perf_counter()
        tokens = self._sample(question, rows) if self._is_ours else self._generate(question)
        return {"seconds": time.perf_counter() - started, "tokens": tokens}

    def _open(self, question: dict[str, Any]) -> dict[str, Any]:
        from benchmarks.contest.process import library_versions
        from trainers.cli.running import quiet_libraries
        from trainers.policy import Policy
        from trainers.sampling import TorchSampler

        quiet_libraries()
        self._is_ours = question["who"].startswith("torch")
        adapter = question["adapter"] or None
        self._policy = Policy.load(question["model"], adapter=adapter, device="cpu", dtype="bfloat16")
        if adapter is None:
            self._off.enter_context(self._policy.playing_as(None))
        if self._is_ours:
            self._sampler = TorchSampler(self._policy, stop_tokens=[_NO_TOKEN])
        return library_versions(["torch", "transformers", "peft"])

    def _sample(self, question: dict[str, Any], rows: int) -> int:
        session = self._sampler.open(question["prompts"], group_size=question["group_size"], seed=question["seed"])
        found = session.sample({row: [] for row in range(rows)}, max_tokens=question["max_tokens"])
        return sum(len(completion.tokens) for completion in found.values())

    def _generate(self, question: dict[str, Any]) -> int:
        import torch

        assert self._policy is not None
        prompts = [prompt for prompt in question["prompts"] for _ in range(question["group_size"])]
        longest = max(map(len, prompts))
        tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        torch.manual_seed(question["seed"])
        with torch.inference_mode():
            found = self._policy.model.generate(  # type: ignore[no-untyped-call]
                input_ids=tokens, attention_mask=mask, max_new_tokens=question["max_tokens"], do_sample=True,
                temperature=1.0, top_k=0, top_p=1.0, eos_token_id=_NO_TOKEN, pad_token_id=0,
            )  # fmt: skip
        return int((found.shape[1] - longest) * len(prompts))


if __name__ == "__main__":
    stand_in()
    serve(Contender().answer)
