"""A decoder of the Llama family in few, large matrix products: what sampling one token a row spends its time on.

transformers computes a layer with a LoRA adapter in 21 products, most of them so small that starting them costs more
than they do. Here they are 8 (or 12 that read weights in their best layout): layers that read the same input are one.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from trainers.lora_linear import is_plain
from trainers.policy import Policy
from trainers.sampling.attention import attend
from trainers.sampling.joined_linear import JoinedLinear
from trainers.sampling.ragged_cache import RaggedCache

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

# How far the last hidden states may lie from those of transformers, as a share of their size. Rounding is far below (in
# bfloat16 two kernels of transformers differ by up to 0.07), a network that is put together otherwise far above.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


class FusedDecoder:
    """Computes what `policy.decoder` computes, for sampling: without gradients, into a `RaggedCache`.

    Call `refresh` before a series of passes: it takes over the adapter.
    """

    def __init__(self, policy: Policy) -> None:
        decoder = cast("Any", policy.decoder)
        self._policy = policy
        self._embed: nn.Module = decoder.embed_tokens
        self._rotary: nn.Module = decoder.rotary_emb
        self._norm: nn.Module = decoder.norm
        self._layers = [_Layer(layer, policy.config) for layer in decoder.layers]
        self._products = [product for layer in self._layers for product in layer.products]
        self._seen: tuple[object, ...] = ()
        self._held: list[Tensor] = []

    @classmethod
    def of(cls, policy: Policy) -> FusedDecoder | None:
        """The fused form of a policy's decoder, or None where its family, or its adapter, is not known here."""
        if getattr(policy.config, "model_type", "") not in _FAMILIES:
            return None
        decoder = cast("Any", policy.decoder)
        if not all(is_plain(module) for layer in decoder.layers for group in _linears(layer) for module in group):
            return None
        fused = cls(policy)
        return fused if fused._agrees() else None

    def refresh(self) -> bool:
        """Take over the policy's adapter if it is another one than the last time, or the same with other values.

        Returns False where the adapter has become one that cannot be computed here.
        """
        if not all(product.can_refresh() for product in self._products):
            return False
        matrices = [matrix for product in self._products for matrix in product.matrices()]
        # Equal only if the adapter is: which tensors it is made of (they are held, so that no other gets their
        # address), how often each was written to, and how it is scaled.
        seen = (*((m.data_ptr(), m._version) for m in matrices), *(product.scales() for product in self._products))
        if seen != self._seen or not self._held:
            for product in self._products:
                product.refresh()
            self._seen, self._held = seen, [m.detach() for m in matrices]
        for product in self._products:
            product.switch()
        return True

    def hidden_states(self, tokens: Tensor, *, mask: Tensor, positions: Tensor, cache: RaggedCache) -> Tensor:
        """Last hidden states `[n, t, H]` of `tokens` `[n, t]`, which are appended to `cache` (see its `begin`)."""
        hidden = self._embed(tokens)
        cos, sin = self._rotary(hidden, positions)  # [n, t, D] each
        cos, sin = cos[:, :, None], sin[:, :, None]
        for number, layer in enumerate(self._layers):
            hidden = layer(hidden, cos, sin, mask, cache, number)
        return cast("Tensor", self._norm(hidden))

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
            self.refresh()
            expected = policy.hidden_states(tokens)
            found = self.hidden_states(tokens, mask=mask, positions=positions, cache=cache)
        error = float((found - expected).float().norm() / expected.float().norm())
        return error < _TOLERANCE.get(policy.dtype, 0.0)


class _Layer:
    """Attention and feed-forward network of one layer."""

    def __init__(self, layer: Any, config: Any) -> None:
        attention = layer.self_attn
        self._before_attention, self._before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self._qkv, self._out, self._gate_up, self._down = (JoinedLinear(group) for group in _linears(layer))
        self._head_size = int(attention.head_dim)
        self._query_heads = int(config.num_attention_heads)
        self._key_heads = int(config.num_key_value_heads)
        self._scale = float(attention.scaling)
        self._query_norm: nn.Module | None = getattr(attention, "q_norm", None)
        self._key_norm: nn.Module | None = getattr(attention, "k_norm", None)
        self._activation: nn.Module = layer.mlp.act_fn

    @property
    def products(self) -> tuple[JoinedLinear, ...]:
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


def _linears(layer: Any) -> tuple[tuple[Any, ...], ...]:
    """A layer's linear layers, those that read the same input together."""
    attention, mlp = layer.self_attn, layer.mlp
    return (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021, arXiv:2104.09864) of `x` `[n, t, heads, D]`."""
    a, b = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([-b, a], -1), sin)
