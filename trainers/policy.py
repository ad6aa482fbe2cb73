"""The policy: a causal language model with a LoRA adapter, and the log probabilities of tokens under it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainers import prefix_attention
from trainers.batching import Microbatch, Row, microbatches
from trainers.lora_linear import join_adapters
from trainers.sampling import attention as cached_attention
from trainers.token_logprobs import token_logprobs
from trainers.trajectories import Completion, Trajectory

if TYPE_CHECKING:
    from peft import PeftModel


def choose_device(device: str = "auto") -> torch.device:
    """`auto` is CUDA when there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA, and on a CPU whichever type multiplies matrices faster, measured here in 50 ms.

    Processors with AMX or AVX512-BF16 are 4 to 10 times faster in bfloat16; the others emulate it and are far slower.
    """
    if dtype != "auto":
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise ValueError(f"unknown dtype {dtype!r}: use auto, bfloat16 or float32")
        return found
    if device.type == "cuda":
        return torch.bfloat16
    rates = {candidate: _matmul_rate(candidate) for candidate in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if rates[torch.bfloat16] > 1.5 * rates[torch.float32] else torch.float32


def _matmul_rate(dtype: torch.dtype, *, seconds: float = 0.02) -> float:
    a = torch.ones(512, 512, dtype=dtype)
    a @ a
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < seconds:
        a @ a
        count += 1
    return count / (time.perf_counter() - start)


class Policy:
    """A frozen base model with a trainable LoRA adapter on all its linear layers (Hu et al., 2021, arXiv:2106.09685).

    Sampler and trainer share this object: an update is seen by the next sample at once.
    """

    def __init__(self, model: PeftModel, *, attention: str = "auto") -> None:
        self.model = model.eval()  # no dropout anywhere: the trainer's logprobs must be those of the sampler
        causal_lm = cast("Any", model.get_base_model())
        self.config = causal_lm.config
        self.decoder = cast("Callable[..., Any]", causal_lm.get_decoder())
        self.lm_head = cast("nn.Linear", causal_lm.get_output_embeddings())
        self._attention = attention
        self._checkpointed: list[Any] = []
        join_adapters(model)
        prefix_attention.register()
        cached_attention.register()

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        lora_rank: int = 32,
        lora_alpha: int = 32,
        seed: int = 0,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        attention: str = "auto",
        adapter: str | Path | None = None,
    ) -> Policy:
        """Load a base model by hub id or folder and put an adapter on it, fresh or from a folder.

        Args:
            model: what `AutoModelForCausalLM.from_pretrained` takes.
            lora_rank: rank of a fresh adapter.
            lora_alpha: scale of a fresh adapter; its output is multiplied by `lora_alpha / lora_rank`.
            seed: of the fresh adapter's weights.
            device: `auto`, `cpu`, `cuda`, ...
            dtype: `auto`, `bfloat16` or `float32`, of base and adapter.
            attention: kernel for training: `sdpa`, `eager`, or `auto` (see `TrainConfig.attention`).
            adapter: a PEFT adapter folder to go on from.

        Raises:
            ValueError: for a model that is not put together as this trainer needs it.
        """
        from peft import LoraConfig, PeftModel, get_peft_model
        from transformers import AutoModelForCausalLM

        device = choose_device(device) if isinstance(device, str) else device
        dtype = choose_dtype(dtype, device) if isinstance(dtype, str) else dtype
        base: Any = AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype, attn_implementation="sdpa")
        base.to(device)
        if adapter is not None:
            peft_model = PeftModel.from_pretrained(base, str(adapter), is_trainable=True, autocast_adapter_dtype=False)
        else:
            lora = LoraConfig(r=lora_rank, lora_alpha=lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
            torch.manual_seed(seed)
            peft_model = get_peft_model(base, lora, autocast_adapter_dtype=False)
        # One dtype everywhere: a float32 adapter in a bfloat16 model would multiply at the slow rate and convert every
        # activation. The optimizer keeps float32 masters instead.
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        policy = cls(peft_model, attention=attention)
        _check_head(policy)
        _check_packing(policy)
        return policy

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return next(self.model.parameters()).dtype

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @contextmanager
    def attention(self, kernel: str) -> Iterator[None]:
        """Compute with another attention kernel of transformers for a while."""
        usual = self.config._attn_implementation
        self.model.set_attn_implementation(kernel)
        try:
            yield
        finally:
            self.model.set_attn_implementation(usual)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the adapter as it is now."""
        return {name: parameter.detach().clone() for name, parameter in self.trainable.items()}

    @contextmanager
    def playing_as(self, snapshot: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Compute with another adapter for a while: an earlier `snapshot`, or None for the base model alone."""
        if snapshot is None:
            with self.model.disable_adapter():
                yield
            return
        parameters = self.trainable
        mine = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = snapshot[name]
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = mine[name]

    def hidden_states(self, tokens: Tensor, **kwargs: Any) -> Tensor:
        """Last hidden states `[B, T, H]` of `tokens` `[B, T]`, before the vocabulary projection."""
        kwargs.setdefault("use_cache", False)
        return cast("Tensor", self.decoder(input_ids=tokens, **kwargs).last_hidden_state)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits `[..., V]` of hidden states `[..., H]`."""
        return cast("Tensor", self.lm_head(hidden)).float()

    def logprobs(self, batch: Microbatch, *, temperature: float = 1.0) -> Tensor:
        """Log probabilities `[M]`, float32, of the sampled tokens of a microbatch, with their gradient where there is
        one."""  # noqa: D205, D209
        hidden = self.packed_hidden_states(batch).index_select(0, batch.predicts)  # [M, H]
        return token_logprobs(self.lm_head, hidden, batch.targets, temperature=temperature)

    def packed_hidden_states(self, batch: Microbatch) -> Tensor:
        """Last hidden states `[N, H]` of a microbatch's tokens."""
        with self.attention(prefix_attention.kernel(self._attention, batch)), self._checkpointing():
            found = self.decoder(
                input_ids=batch.tokens[None],
                position_ids=batch.positions[None],
                use_cache=False,
                microbatch=batch,
            )
        return cast("Tensor", found.last_hidden_state[0])

    def checkpoint_gradients(self) -> None:
        """From now on `logprobs` keeps only the input of each layer for the backward pass, which computes the rest
        again."""  # noqa: D205, D209
        from transformers.modeling_layers import GradientCheckpointingLayer

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            # When a layer is computed again the model may be set to another kernel.
            return nullcontext(), self.attention(self.config._attn_implementation)

        again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        self._checkpointed = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not self._checkpointed:
            raise ValueError(f"{type(self.model.get_base_model()).__name__} has no layers that can be checkpointed")
        for layer in self._checkpointed:
            layer._gradient_checkpointing_func, layer.gradient_checkpointing = again, True

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Let the layers know for a while: where there is a cache they would forget it."""
        try:
            for layer in self._checkpointed:
                layer.training = True  # itself, not what is in it: dropout stays off
            yield
        finally:
            for layer in self._checkpointed:
                layer.training = False

    def twin(self, device: torch.device | None = None) -> Policy:
        """A policy of its own with an adapter of its own.

        On the same device base weights are shared, until the samplers of both join them (see `JoinedLinear`).
        """
        place = self.device if device is None else device
        shared: dict[int, Any] = (
            {id(p): p for p in self.model.parameters() if not p.requires_grad} if place == self.device else {}
        )
        return Policy(copy.deepcopy(self.model, shared).to(place), attention=self._attention)

    def take_adapter(self, other: Policy) -> None:
        """Copy another policy's adapter."""
        theirs = other.trainable
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(theirs[name])

    def save_adapter(self, folder: Path) -> None:
        """Write a PEFT adapter folder that `PeftModel.from_pretrained` and vLLM load as it is."""
        self.model.save_pretrained(str(folder))


@torch.no_grad()
def _check_head(policy: Policy) -> None:
    """Refuse models that do more after the last hidden state than one projection: their logprobs would be wrong."""
    causal_lm: Any = policy.model.get_base_model()
    name, lm_head = type(causal_lm).__name__, policy.lm_head
    windows = getattr(policy.config, "layer_types", None) or []
    everywhere = not windows and getattr(policy.config, "sliding_window", None) is not None
    if everywhere or any(kind != "full_attention" for kind in windows):
        raise ValueError(f"{name} has layers without full attention: not supported yet")
    if type(lm_head) is not nn.Linear:
        raise ValueError(f"{name} has an output projection that is no plain linear layer: not supported yet")
    tokens = torch.arange(4, device=policy.device).unsqueeze(0)
    whole = causal_lm(input_ids=tokens, use_cache=False).logits
    if not torch.equal(whole, lm_head(policy.hidden_states(tokens))):
        raise ValueError(f"{name} changes its logits after the output projection: not supported yet")


# How far hidden states of packed rows may lie from those of a row alone, as a share of their size: see fused_decoder.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


@torch.no_grad()
def _check_packing(policy: Policy) -> None:
    """Refuse models whose attention is not the one that was asked for: rows of a microbatch would see each other."""
    ledgers = ([4, 5, 6, 7, 8], [4, 5, 6, 9], [5, 4, 7, 6])
    rows = []
    for number, tokens in enumerate(ledgers):
        trajectory = Trajectory(seed=0)
        trajectory.append_prompt(tokens[:3])
        trajectory.append_completion(Completion(tokens[3:], [0.0] * len(tokens[3:]), "stop"))
        rows.append(Row(trajectory, [], 0.0, group=number // 2))
    [batch] = microbatches(rows, tokens_per_microbatch=100)
    batch = batch.to(policy.device)
    name = type(policy.model.get_base_model()).__name__
    with policy.playing_as(None):
        try:
            packed = policy.packed_hidden_states(batch).index_select(0, batch.predicts)
        except TypeError as error:
            raise ValueError(f"{name} does not hand over what its attention needs: not supported yet") from error
        alone = [policy.hidden_states(torch.tensor([tokens], device=policy.device))[0] for tokens in ledgers]
    expected = torch.cat([alone[number][2 : len(ledgers[number]) - 1] for number in batch.numbers])
    gap = float((packed - expected).float().norm() / expected.float().norm())
    if not gap < _TOLERANCE.get(policy.dtype, 0.0):
        raise ValueError(f"{name} has an attention of its own: not supported yet")
