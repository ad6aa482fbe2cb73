"""A server of vLLM as the engine: tokens in and out over HTTP, adapters handed over as folders that it can read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from trainers.config import ConfigError
from trainers.sampling.endpoint import Endpoint, EndpointError
from trainers.sampling.vllm_sampler import Adapter, Drawing, Request, as_completion
from trainers.trajectories import Completion

# The logprob of the most probable token at two temperatures differs by more than this, and by less where it is said for
# temperature 1 both times.
_NOISE = 0.05


class ServerEngine:
    """A server begun as `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-lora-rank RANK`.

    At a temperature other than 1 it needs `--logprobs-mode processed_logprobs`, too.

    Args:
        base_url: as in `http://localhost:8000/v1`.
        context_length: which the server must allow.
        model: name of the base model there; None: the only one.
        api_key: if it asks for one.
        timeout_seconds: of one completion.
        retries: tries that follow a failed one.
        max_concurrency: most rows that are with the server at once.

    Raises:
        ConfigError: when it is not there, or does not serve such rows.
    """

    def __init__(
        self,
        base_url: str,
        *,
        context_length: int,
        model: str | None = None,
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
        retries: int = 4,
        max_concurrency: int = 512,
    ) -> None:
        try:
            self._endpoint = Endpoint(
                base_url,
                api_key=api_key,
                timeout_seconds=timeout_seconds,
                retries=retries,
                max_concurrency=max_concurrency,
            )
            cards: list[dict[str, Any]] = self._endpoint.get("/models")["data"]
        except (ValueError, KeyError, TypeError, EndpointError) as error:
            raise ConfigError(f"there is no server of vLLM: {error}") from error
        bases = {str(card["id"]): card for card in cards if not card.get("parent")}
        if model is None and len(bases) == 1:
            [model] = bases
        if model is None or model not in bases:
            raise ConfigError(f"{base_url} serves {', '.join(bases)}: name the base model in sampler_args")
        allowed = bases[model].get("max_model_len")
        if allowed is not None and allowed < context_length:
            raise ConfigError(
                f"{base_url} takes {allowed} tokens and the context has {context_length}: begin it with "
                f"--max-model-len {context_length}, or give max_model_len {allowed} in sampler_args"
            )
        self._model = model

    def add(self, adapter: Adapter) -> None:
        """Have the server load an adapter.

        Raises:
            ConfigError: when it takes none, or cannot read the folder.
        """
        body = {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
        try:
            self._endpoint.post("/load_lora_adapter", body, is_json=False)
        except EndpointError as error:
            if "already been loaded" in str(error):  # names come once: an earlier try got through, but not its answer
                return
            raise ConfigError(
                f"the server took no adapter (begun with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora and "
                f"--max-lora-rank? adapter_dir in sampler_args names a folder that both see): {error}"
            ) from error

    def drop(self, adapter: Adapter) -> None:
        """Have the server forget an adapter; one that was begun anew has forgotten it already."""
        try:
            self._endpoint.post("/unload_lora_adapter", {"lora_name": adapter.name}, is_json=False)
        except EndpointError:
            return

    def generate(self, requests: Sequence[Request], drawing: Drawing, adapter: Adapter | None) -> list[Completion]:
        """One completion a request, all at once: the server makes the batch.

        Raises:
            EndpointError: when the server fails, after all tries.
        """
        name = self._model if adapter is None else adapter.name
        bodies = [_body(request, drawing, name) for request in requests]
        found = []
        for answer in self._endpoint.post_all("/completions", bodies):
            if isinstance(answer, EndpointError):
                raise answer
            found.append(self._read(answer, drawing))
        return found

    def logprobs_are_tempered(self) -> bool:
        """What `--logprobs-mode` the server was begun with; it does not say, so it is tried once."""
        return self._is_tempered

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    @cached_property
    def _is_tempered(self) -> bool:
        most_probable: list[float] = []
        for temperature in (1.0, 2.0):
            drawing = Drawing(temperature=temperature, top_p=1.0, top_k=0, stop_tokens=())
            body = _body(Request([0], 1, 0), drawing, self._model) | {"logprobs": 1}
            choice = self._endpoint.post("/completions", body)["choices"][0]
            most_probable.append(max(choice["logprobs"]["top_logprobs"][0].values()))
        return abs(most_probable[0] - most_probable[1]) > _NOISE

    def _read(self, answer: Any, drawing: Drawing) -> Completion:
        try:
            choice = answer["choices"][0]
            tokens, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            return as_completion([int(t) for t in tokens], [float(x) for x in logprobs], drawing)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EndpointError(f"{self._endpoint.url} gives no token ids with logprobs: is it vLLM?") from error


def _body(request: Request, drawing: Drawing, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": request.tokens,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
        "temperature": drawing.temperature,
        "top_p": drawing.top_p,
        "top_k": drawing.top_k,
        "stop_token_ids": list(drawing.stop_tokens),
        "ignore_eos": True,
        # What is not said the server takes from the model's generation_config.json, and samples from another policy.
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logprobs": 0,
        "return_token_ids": True,
        "add_special_tokens": False,
    }
