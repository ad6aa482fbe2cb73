"""A decoder of the Llama family in few, large matrix products: what sampling one token a row spends its time on.

transformers computes a layer with a LoRA adapter in 21 products, most of them so small that starting them costs more
than they do. Here they are 8: layers that read the same input are one, the adapter's first matrices among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.policy import Policy
from trainers.sampling.attention import attend
from trainers.sampling.ragged_cache import RaggedCache

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

# How far the last hidden states may lie from those of transformers, as a share of their size. Rounding is far below (in
# bfloat16 two kernels of transformers differ by up to 0.07), a network that is put together otherwise far above.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


class FusedDecoder:
    """Computes what `policy.decoder` computes, for sampling: without gradients, into a `RaggedCache`.

    The base weights are not copied: the policy's become views of the joined ones. The adapter's are, by `refresh`.
    """

    def __init__(self, policy: Policy) -> None:
        decoder = cast("Any", policy.decoder)
        self._policy = policy
        self._embed: nn.Module = decoder.embed_tokens
        self._rotary: nn.Module = decoder.rotary_emb
        self._norm: nn.Module = decoder.norm
        self._layers = [_Layer(layer, policy.config) for layer in decoder.layers]
        self._seen: tuple[object, ...] = ()

    @classmethod
    def of(cls, policy: Policy) -> FusedDecoder | None:
        """The fused form of a policy's decoder, or None where its family, or its adapter, is not known here."""
        if getattr(policy.config, "model_type", "") not in _FAMILIES:
            return None
        decoder = cast("Any", policy.decoder)
        if not all(_is_plain(module) for layer in decoder.layers for group in _linears(layer) for module in group):
            return None
        fused = cls(policy)
        return fused if fused._agrees() else None

    def refresh(self) -> None:
        """Take over the policy's adapter if it is another one than the last time, or the same with other values."""
        seen = self._fingerprint()
        if seen != self._seen:
            for layer in self._layers:
                layer.refresh()
            self._seen = seen

    def hidden_states(self, tokens: Tensor, *, mask: Tensor, positions: Tensor, cache: RaggedCache) -> Tensor:
        """Last hidden states `[n, t, H]` of `tokens` `[n, t]`, which are appended to `cache` (see its `begin`)."""
        hidden = self._embed(tokens)
        cos, sin = self._rotary(hidden, positions)  # [n, t, D] each
        cos, sin = cos[:, :, None], sin[:, :, None]
        for number, layer in enumerate(self._layers):
            hidden = layer(hidden, cos, sin, mask, cache, number)
        return cast("Tensor", self._norm(hidden))

    def _fingerprint(self) -> tuple[object, ...]:
        """Equal only if the adapter is: which tensors it is made of, and how often each was written to."""
        parameters = [p for layer in self._layers for p in layer.adapter()]
        return (*((p.data_ptr(), p._version) for p in parameters), *(layer.is_on for layer in self._layers))

    @torch.inference_mode()
    def _agrees(self) -> bool:
        """Compare with transformers on a few tokens: a family has members that do something else."""
        policy = self._policy
        tokens = torch.arange(24, device=policy.device).view(2, 12) % int(policy.config.vocab_size)
        cache = RaggedCache(policy.dtype)
        cache.allocate(rows=2, capacity=16)
        lengths = torch.full((2,), 12, device=policy.device)
        mask, positions = cache.begin(lengths, width=12, first_slot=0)
        with policy.playing_as(None):  # an adapter would magnify rounding
            expected = policy.hidden_states(tokens)
            found = self.hidden_states(tokens, mask=mask, positions=positions, cache=cache)
        error = float((found - expected).float().norm() / expected.float().norm())
        return error < _TOLERANCE.get(policy.dtype, 0.0)


class _Layer:
    """Attention and feed-forward network of one layer."""

    def __init__(self, layer: Any, config: Any) -> None:
        attention = layer.self_attn
        self._before_attention, self._before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self._qkv, self._out, self._gate_up, self._down = (_Joined(group) for group in _linears(layer))
        self._head_size = int(attention.head_dim)
        self._query_heads = int(config.num_attention_heads)
        self._key_heads = int(config.num_key_value_heads)
        self._scale = float(attention.scaling)
        self._query_norm: nn.Module | None = getattr(attention, "q_norm", None)
        self._key_norm: nn.Module | None = getattr(attention, "k_norm", None)
        self._activation: nn.Module = layer.mlp.act_fn

    def adapter(self) -> list[Tensor]:
        return [p for joined in self._products for p in joined.adapter()]

    @property
    def is_on(self) -> bool:
        return self._qkv.is_on

    def refresh(self) -> None:
        for joined in self._products:
            joined.refresh()

    @property
    def _products(self) -> tuple[_Joined, ...]:
        return self._qkv, self._out, self._gate_up, self._down

    def __call__(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: RaggedCache, number: int
    ) -> Tensor:
        n, t, _ = hidden.shape
        heads = self._query_heads + self._key_heads
        qkv = self._qkv(self._before_attention(hidden)).view(n, t, heads + self._key_heads, self._head_size)
        if self._query_norm is not None and self._key_norm is not None:
            queries, keys = qkv[:, :, : self._query_heads], qkv[:, :, self._query_heads : heads]
            turned = _rotate(torch.cat([self._query_norm(queries), self._key_norm(keys)], 2), cos, sin)
        else:
            turned = _rotate(qkv[:, :, :heads], cos, sin)
        queries, keys = turned[:, :, : self._query_heads], turned[:, :, self._query_heads :]
        all_keys, all_values = cache.update(keys.transpose(1, 2), qkv[:, :, heads:].transpose(1, 2), number)
        seen = attend(queries.transpose(1, 2), all_keys, all_values, mask, scale=self._scale)  # [n, t, heads, D]
        hidden = hidden + self._out(seen.flatten(2))
        gate, up = self._gate_up(self._before_mlp(hidden)).chunk(2, dim=-1)
        return hidden + self._down(self._activation(gate) * up)


class _Joined:
    """Linear layers that read the same input, as one product, and one more for what their adapters add.

    `weight` is `[O + R, I]`: the layers' weights and below them their first LoRA matrices, so that one product gives
    outputs `[N, O]` and what the second matrices read `[N, R]`. These stand on the diagonal of `up` `[R, O]`.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self._modules = modules
        bases: list[nn.Linear] = [getattr(module, "base_layer", module) for module in modules]
        self._adapted = [module if hasattr(module, "base_layer") else None for module in modules]
        ranks = [0 if m is None else m.lora_A[m.active_adapters[0]].out_features for m in self._adapted]
        outs = [base.out_features for base in bases]
        self._size, rank = sum(outs), sum(ranks)
        first = bases[0].weight
        self._weight = first.new_zeros(self._size + rank, first.shape[1])
        self._up = first.new_zeros(rank, self._size)
        row, down = 0, self._size
        self._slices: list[tuple[slice, slice, slice]] = []  # of its outputs, its A in weight, its B in up
        for base, out, r in zip(bases, outs, ranks, strict=True):
            rows = slice(row, row + out)
            self._weight[rows] = base.weight.detach()
            base.weight.data = self._weight[rows]
            self._slices.append((rows, slice(down, down + r), slice(down - self._size, down - self._size + r)))
            row, down = row + out, down + r
        biases = [b.bias if b.bias is not None else b.weight.new_zeros(b.out_features) for b in bases]
        self._bias = torch.cat([b.detach() for b in biases]) if any(b.bias is not None for b in bases) else None
        self.is_on = False

    def adapter(self) -> list[Tensor]:
        """The adapters' matrices."""
        return [
            matrix[module.active_adapters[0]].weight
            for module in self._adapted
            if module is not None
            for matrix in (module.lora_A, module.lora_B)
        ]

    @torch.inference_mode()
    def refresh(self) -> None:
        for module, (outs, downs, ups) in zip(self._adapted, self._slices, strict=True):
            if module is not None:
                name = module.active_adapters[0]
                self._weight[downs] = module.lora_A[name].weight
                self._up[ups, outs] = module.lora_B[name].weight.t() * module.scaling[name]

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        self.is_on = bool(len(self._up)) and not any(m is not None and m.disable_adapters for m in self._adapted)
        if not self.is_on:
            return F.linear(flat, self._weight[: self._size], self._bias).view(*x.shape[:-1], self._size)
        both = F.linear(flat, self._weight)
        found = torch.addmm(both[:, : self._size], both[:, self._size :], self._up)
        if self._bias is not None:
            found += self._bias
        return found.view(*x.shape[:-1], self._size)


def _linears(layer: Any) -> tuple[tuple[Any, ...], ...]:
    """A layer's linear layers, those that read the same input together."""
    attention, mlp = layer.self_attn, layer.mlp
    return (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )


def _is_plain(module: nn.Module) -> bool:
    """True for an ordinary linear layer, with or without one ordinary LoRA adapter."""
    from peft.tuners.lora import Linear as LoraLinear

    if type(module) is nn.Linear:
        return True
    return (
        type(module) is LoraLinear
        and type(module.base_layer) is nn.Linear
        and len(module.active_adapters) == 1
        and not module.fan_in_fan_out
        and not module.merged
        and not module.lora_variant
        and module.lora_B[module.active_adapters[0]].bias is None
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021, arXiv:2104.09864) of `x` `[n, t, heads, D]`."""
    a, b = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([-b, a], -1), sin)
