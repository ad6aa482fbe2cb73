"""The policy: a causal language model with a LoRA adapter, and the log probabilities of tokens under it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from peft import PeftModel

# Logits of this many entries are held at a time (float32: 256 MB), however many tokens a microbatch has.
_LOGITS_AT_A_TIME = 64 * 1024 * 1024


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

    def __init__(self, model: PeftModel) -> None:
        self.model = model.eval()  # no dropout anywhere: the trainer's logprobs must be those of the sampler
        causal_lm = cast("Any", model.get_base_model())
        self.config = causal_lm.config
        self.decoder = cast("Callable[..., Any]", causal_lm.get_decoder())
        self.lm_head = cast("nn.Module", causal_lm.get_output_embeddings())
        _check_head(causal_lm, self.decoder, self.lm_head)

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
        attention: str = "sdpa",
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
            attention: attention kernel of transformers for training: `sdpa`, or `eager`, whose backward pass is faster
                on a CPU for rows of some hundred tokens, and whose memory grows with their square.
            adapter: a PEFT adapter folder to go on from.
        """
        from peft import LoraConfig, PeftModel, get_peft_model
        from transformers import AutoModelForCausalLM

        device = choose_device(device) if isinstance(device, str) else device
        dtype = choose_dtype(dtype, device) if isinstance(dtype, str) else dtype
        base: Any = AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype, attn_implementation=attention)
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
        return cls(peft_model)

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

    def logprobs(self, tokens: Tensor, is_action: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Log probabilities `[N]` of the sampled tokens: see `token_logprobs`."""
        return token_logprobs(self.decoder, self.lm_head, tokens, is_action, temperature=temperature)

    def save_adapter(self, folder: Path) -> None:
        """Write a PEFT adapter folder that `PeftModel.from_pretrained` and vLLM load as it is."""
        self.model.save_pretrained(str(folder))


def token_logprobs(
    decoder: Callable[..., Any], lm_head: nn.Module, tokens: Tensor, is_action: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Log probabilities of the action tokens of a batch.

    The logits of prompt tokens are never computed, and those of action tokens only a slice at a time, in the backward
    pass too: no `[B, T, V]` tensor exists.

    Args:
        decoder: tokens to hidden states, causal.
        lm_head: hidden states to logits.
        tokens: `[B, T]`, padded on the right.
        is_action: `[B, T]` bool, False in column 0; N are True.
        temperature: the one that the tokens were sampled at.

    Returns:
        `[N]` float32 in row-major order of `is_action`.
    """

    def of_slice(hidden: Tensor, targets: Tensor) -> Tensor:
        return -F.cross_entropy(lm_head(hidden).float() / temperature, targets, reduction="none")

    # Token t is predicted from position t - 1.
    hidden = decoder(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1][is_action[:, 1:]]  # [N, H]
    targets = tokens[is_action]  # [N]
    rows = max(1, _LOGITS_AT_A_TIME // cast("int", lm_head.out_features))
    if len(targets) <= rows:
        return of_slice(hidden, targets)
    parts = [slice(start, start + rows) for start in range(0, len(targets), rows)]
    return torch.cat([checkpoint(of_slice, hidden[part], targets[part], use_reentrant=False) for part in parts])


def _check_head(causal_lm: Any, decoder: Callable[..., Any], lm_head: nn.Module) -> None:
    """Refuse models that do more after the last hidden state than one projection: their logprobs would be wrong."""
    tokens = torch.arange(4, device=lm_head.weight.device).unsqueeze(0)  # type: ignore[arg-type]
    with torch.no_grad():
        whole = causal_lm(input_ids=tokens, use_cache=False).logits
        parts = lm_head(decoder(input_ids=tokens, use_cache=False).last_hidden_state)
    if not torch.equal(whole, parts):
        raise ValueError(
            f"{type(causal_lm).__name__} changes its logits after the output projection: not supported yet"
        )
    windows = getattr(causal_lm.config, "layer_types", None) or []
    everywhere = not windows and getattr(causal_lm.config, "sliding_window", None) is not None
    if everywhere or any(kind != "full_attention" for kind in windows):
        raise ValueError(f"{type(causal_lm).__name__} has layers without full attention: not supported yet")
