"""An engine of vLLM as the sampler: it has weights of its own, and gets every new adapter as a LoRA request."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainers.config import ConfigError
from trainers.config.checks import one_line
from trainers.config.sampling import shortened
from trainers.trajectories import Completion

if TYPE_CHECKING:
    from trainers.policy import Policy

# What an engine takes as the highest rank of an adapter.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

# Beyond this vLLM refuses.
_HOTTEST = 2.0

# The trainer computes on the same GPU, so the engine must leave it room.
_SHARE_OF_MEMORY = 0.4

# A prompt that a group shares is found again in whole blocks only; a CPU's own 128 are longer than most prompts.
_CPU_BLOCK_SIZE = 32


@dataclass(frozen=True)
class Adapter:
    """An adapter on its way to an engine: a PEFT folder, and a number and a name that no other one ever has."""

    number: int
    name: str
    folder: Path


@dataclass(frozen=True)
class Request:
    """One row's turn: all its tokens so far, and how many may follow."""

    tokens: list[int]
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Drawing:
    """How the tokens of all rows of a call are drawn."""

    temperature: float
    top_p: float
    top_k: int
    stop_tokens: tuple[int, ...]


class Engine(Protocol):
    """What a sampler needs of vLLM, in this process or behind a server."""

    def add(self, adapter: Adapter) -> None:
        """Load an adapter."""

    def drop(self, adapter: Adapter) -> None:
        """Forget one that nobody will ask for again."""

    def generate(self, requests: Sequence[Request], drawing: Drawing, adapter: Adapter | None) -> list[Completion]:
        """One completion a request, in their order; without an adapter from the base model."""
        ...

    def logprobs_are_tempered(self) -> bool:
        """True: logprobs are those of the distribution that was drawn from; False: those at temperature 1."""
        ...

    def close(self) -> None:
        """Give back memory and processes."""


class VllmSampler:
    """Samples by vLLM, with the adapter that `load_adapter` last took; a new sampler takes the policy's at once.

    A session keeps the adapter with which it was opened.

    Args:
        policy: whose model the engine loads, and whose adapter it begins with.
        stop_tokens: tokens that end a turn; the engine's own ideas of an end are ignored.
        context_length: most tokens of a row; a turn that reaches it ends with `length`. Default: what the model's
            configuration allows.
        arguments: of the engine (`vllm.LLM`), over those chosen here; or, with `base_url`, of `ServerEngine`: then a
            server that runs already samples.

    Raises:
        ConfigError: in one line, when vLLM is not installed, does not start, or the server does not serve.
    """

    shares_weights = False

    def __init__(
        self,
        policy: Policy,
        *,
        stop_tokens: Sequence[int],
        context_length: int | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        if not stop_tokens:
            raise ValueError("stop_tokens is empty: no turn would end before max_tokens")
        self._stop_tokens = tuple(stop_tokens)
        arguments = dict(arguments or {})
        self._context_length = shortened(context_length or int(policy.config.max_position_embeddings), arguments)
        adapter_dir = arguments.pop("adapter_dir", None) if "base_url" in arguments else None
        self._engine: Engine
        if "base_url" in arguments:
            from trainers.sampling.vllm_server import ServerEngine

            self._engine = ServerEngine(context_length=self._context_length, **_checked_server(arguments))
        else:
            self._engine = LocalEngine(policy, context_length=self._context_length, arguments=arguments)
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="adapters-", dir=adapter_dir))
            self._folder.chmod(0o755)  # a server may be another user's
        except OSError as error:
            self._engine.close()
            raise ConfigError(f"adapter_dir {adapter_dir} in sampler_args: {error.strerror}") from error
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._loaded: list[Adapter] = []
        self._sessions: weakref.WeakSet[VllmSession] = weakref.WeakSet()
        self._count = 0
        self._adapter: Adapter | None = None
        try:
            self.load_adapter(policy)
        except BaseException:
            self.close()
            raise

    def open(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1, seed: int = 0) -> VllmSession:
        """Start `len(prompts) * group_size` rows; the engine's prefix cache computes equal prompts once."""
        session = VllmSession(self._engine, self._adapter, self._stop_tokens, self._context_length, seed)
        session.add(prompts, group_size=group_size)
        self._sessions.add(session)
        return session

    def load_adapter(self, policy: Policy) -> None:
        """From now on sample from the policy as it is now; where its adapter is switched off, from the base model."""
        self._adapter = None
        if _has_adapter(policy):
            self._count += 1
            # The cache of an engine goes by name and folder: neither may ever come again with other weights.
            name = f"{self._folder.name}-{self._count}"
            adapter = Adapter(self._count, name, self._folder / str(self._count))
            policy.save_adapter(adapter.folder)
            self._engine.add(adapter)
            self._loaded.append(adapter)
            self._adapter = adapter
        self._drop_unused()

    def knows_logprobs(self, temperature: float, *, cuts: bool = False) -> bool:
        """Whether sampling so gives logprobs, and not nan."""
        return knows_logprobs(self._engine, temperature, cuts=cuts)

    def close(self) -> None:
        """Stop the engine; a server goes on, without our adapters."""
        self._adapter = None
        self._sessions.clear()
        self._drop_unused()
        self._engine.close()
        self._remove_folder()

    def _drop_unused(self) -> None:
        in_use = {session.adapter for session in self._sessions} | {self._adapter}
        for adapter in [adapter for adapter in self._loaded if adapter not in in_use]:
            self._loaded.remove(adapter)
            self._engine.drop(adapter)
            shutil.rmtree(adapter.folder, ignore_errors=True)


class VllmSession:
    """Keeps the tokens of every row, and sends all of them each turn: the engine's prefix cache knows most of them."""

    def __init__(
        self, engine: Engine, adapter: Adapter | None, stop_tokens: tuple[int, ...], context_length: int, seed: int
    ) -> None:
        self.adapter = adapter
        self._engine = engine
        self._stop_tokens = stop_tokens
        self._context_length = context_length
        self._seed = seed
        self._ledgers: list[list[int]] = []
        self._turns: list[int] = []

    def add(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1) -> range:
        """Begin more rows (see `Session.add`)."""
        if not prompts or not all(prompts):
            raise ValueError("every prompt needs at least one token")
        if max(map(len, prompts)) >= self._context_length:
            raise ValueError(f"a prompt of {max(map(len, prompts))} tokens leaves no room in {self._context_length}")
        first = len(self._ledgers)
        self._ledgers += [list(prompt) for prompt in prompts for _ in range(group_size)]
        self._turns += [0] * (len(self._ledgers) - first)
        return range(first, len(self._ledgers))

    def sample(
        self,
        feeds: Mapping[int, Sequence[int]],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> dict[int, Completion]:
        """Append tokens to rows, then sample a completion for each (see `Session.sample`).

        The engine says nothing until all rows are done, and so does `progress`.

        The seed of a row's turn depends on the session's seed, the row and the turn, not on the company. An engine
        rounds differently in different company, so the same seed gives the same tokens in most cases only.

        Logprobs that the engine cannot say (see `knows_logprobs`) are nan.
        """
        gone = [row for row in feeds if not 0 <= row < len(self._ledgers)]
        if gone:
            raise KeyError(f"there are no rows {gone[:5]}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        if not 0.0 <= temperature <= _HOTTEST:
            raise ConfigError(f"vLLM samples at temperatures from 0 to {_HOTTEST:g}, not {temperature}")
        full = [row for row, feed in feeds.items() if len(self._ledgers[row]) + len(feed) >= self._context_length]
        if full:
            raise ValueError(f"row {full[0]} leaves no room in {self._context_length}")
        requests = []
        for row, feed in feeds.items():
            self._ledgers[row] += feed
            room = self._context_length - len(self._ledgers[row])
            seed = _mixed(self._seed, row, self._turns[row])
            requests.append(Request(self._ledgers[row], min(max_tokens, room), seed))
        drawing = Drawing(temperature, top_p, top_k, self._stop_tokens)
        found = dict(zip(feeds, self._engine.generate(requests, drawing, self.adapter), strict=True))
        if not knows_logprobs(self._engine, temperature, cuts=top_p < 1.0 or top_k > 0):
            found = {row: replace(c, logprobs=[math.nan] * len(c.tokens)) for row, c in found.items()}
        for row, completion in found.items():
            self._ledgers[row] += completion.tokens
            self._turns[row] += 1
        if progress is not None:
            progress(float(len(found)))
        return found


class LocalEngine:
    """`vllm.LLM` in a process that belongs to this one."""

    def __init__(self, policy: Policy, *, context_length: int, arguments: Mapping[str, Any]) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ModuleNotFoundError as error:
            raise ConfigError(f"sampler=vllm needs vLLM, which is not installed here: {error}") from error
        configs: Any = policy.model.peft_config.values()
        rank = max(config.r for config in configs)
        if rank > _RANKS[-1]:
            raise ConfigError(f"sampler=vllm takes adapters up to rank {_RANKS[-1]}, not {rank}")
        chosen = {
            "model": policy.config.name_or_path,
            "dtype": str(policy.dtype).removeprefix("torch."),
            "max_model_len": context_length,
            "skip_tokenizer_init": True,  # tokens in, tokens out
            "enable_lora": True,
            "max_lora_rank": next(known for known in _RANKS if known >= rank),
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "gpu_memory_utilization": _SHARE_OF_MEMORY,
            **({"block_size": _CPU_BLOCK_SIZE} if current_platform.is_cpu() else {}),
            **arguments,
        }
        self._is_tempered: bool = chosen["logprobs_mode"] == "processed_logprobs"
        try:
            self._llm: Any = LLM(**chosen)
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(f"vLLM does not start: {one_line(error)}") from error

    def logprobs_are_tempered(self) -> bool:
        """As its `logprobs_mode` says."""
        return self._is_tempered

    def add(self, adapter: Adapter) -> None:
        """Load an adapter (see `Engine.add`)."""
        self._llm.llm_engine.add_lora(self._lora_request(adapter))

    def drop(self, adapter: Adapter) -> None:
        """Forget an adapter; it may have made room for another before."""
        self._llm.llm_engine.remove_lora(adapter.number)

    def generate(self, requests: Sequence[Request], drawing: Drawing, adapter: Adapter | None) -> list[Completion]:
        """One completion a request, all in one continuous batch."""
        from vllm import SamplingParams

        if not requests:
            return []
        params = [
            SamplingParams(
                max_tokens=request.max_tokens,
                seed=request.seed,
                temperature=drawing.temperature,
                top_p=drawing.top_p,
                top_k=drawing.top_k,
                stop_token_ids=list(drawing.stop_tokens),
                ignore_eos=True,  # the stop tokens are ours
                logprobs=0,  # that of the sampled token alone
                flat_logprobs=True,
                detokenize=False,
            )
            for request in requests
        ]
        outputs = self._llm.generate(
            [{"prompt_token_ids": request.tokens} for request in requests],
            params,
            use_tqdm=False,
            lora_request=None if adapter is None else self._lora_request(adapter),
        )
        chosen = [output.outputs[0] for output in outputs]
        return [as_completion(list(c.token_ids), list(c.logprobs.logprobs), drawing) for c in chosen]

    def close(self) -> None:
        """Stop the engine's process."""
        self._llm.llm_engine.engine_core.shutdown()

    def _lora_request(self, adapter: Adapter) -> Any:
        from vllm.lora.request import LoRARequest

        return LoRARequest(adapter.name, adapter.number, str(adapter.folder))


def knows_logprobs(engine: Engine, temperature: float, *, cuts: bool) -> bool:
    """Whether an engine says the logprobs that `Session.sample` promises: after the temperature, before any cut.

    vLLM says them before both or after both, by its `logprobs_mode`; greedy tokens come with those at temperature 1
    either way.

    Args:
        engine: that samples.
        temperature: of sampling.
        cuts: whether top_p or top_k leave tokens out.
    """
    if temperature == 0.0 or (temperature == 1.0 and not cuts):
        return True
    return not cuts if engine.logprobs_are_tempered() else temperature == 1.0


def as_completion(tokens: list[int], logprobs: list[float], drawing: Drawing) -> Completion:
    """What an engine sampled; the stop token is the last of its tokens."""
    return Completion(tokens, logprobs, "stop" if tokens[-1] in drawing.stop_tokens else "length")


def _checked_server(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    known = ("base_url", "model", "api_key", "timeout_seconds", "retries", "max_concurrency")
    others = ("adapter_dir", "max_model_len")  # these are not its own affair
    unknown = [name for name in arguments if name not in known + others]
    if unknown:
        raise ConfigError(f"sampler_args: a server takes {', '.join(known + others)}, not {unknown[0]!r}")
    return {name: value for name, value in arguments.items() if name in known}


def _has_adapter(policy: Policy) -> bool:
    """False while the policy plays as the base model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return not any(m.disable_adapters for m in policy.model.modules() if isinstance(m, BaseTunerLayer))


def _mixed(*numbers: int) -> int:
    """A seed of 63 bits that every one of the numbers changes."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
