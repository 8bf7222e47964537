"""Multi-head attention with robust estimates of its projections, which are Linear layers over
positions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrob.torch import layer_kinds
from chainrob.torch.robust_modules import RobustModule

__all__ = ["MultiheadAttention"]


class MultiheadAttention(RobustModule, nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention``, with robust gradients of its projections.

    The input projection is one layer: one row a sample joins queries, keys and values. The output
    projection, ``out_proj``, is another layer, and ``robustify`` converts it as well. PyTorch's own
    forward pass hands both weights to one function, past every hook, so the pass is written out
    here. Where query, key and value are different tensors, the whole input projection maps each of
    them, and a part of the answer is taken.

    ``kdim``, ``vdim``, ``add_bias_kv``, ``add_zero_attn`` and nested tensors are not available.
    """

    stock = nn.MultiheadAttention

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        output = self.out_proj
        plain = self.robustifier is None and getattr(output, "robustifier", None) is None
        if plain or not torch.is_grad_enabled():
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                need_weights,
                attn_mask,
                average_attn_weights,
                is_causal,
            )
        self._check_attention(query, is_causal, attn_mask)
        if not self.batch_first:
            query, key, value = _samples_first(query, key, value)
        q, k, v = self._projected(query, key, value)
        mask = _joined_mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q / math.sqrt(q.shape[-1])).matmul(k.transpose(-1, -2))
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            mixed = weights.matmul(v)
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        mixed = mixed.transpose(1, 2).flatten(2)
        if not self.batch_first:
            mixed = mixed.transpose(0, 1)
        return output(mixed), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values by head, each (N, heads, positions, size), from (N, S, E)."""
        distinct: list[Tensor] = []
        place = []
        for one in (query, key, value):
            known = [i for i, other in enumerate(distinct) if other is one]
            place.append(known[0] if known else len(distinct))
            if not known:
                distinct.append(one)
        joined = distinct[0] if len(distinct) == 1 else torch.cat(distinct, dim=1)
        mapped = self._map(joined)
        runs = mapped.split([one.shape[1] for one in distinct], dim=1)
        parts = [runs[i].chunk(3, dim=-1)[number] for number, i in enumerate(place)]
        return [one.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in parts]

    def _map(self, x: Tensor) -> Tensor:
        if self.robustifier is None:
            return F.linear(x, self.in_proj_weight, self.in_proj_bias)
        kind = layer_kinds.linear(("in_proj_weight", "in_proj_bias"))
        # Here the samples come first, wherever they were.
        return self.run(kind, x, self.in_proj_weight, self.in_proj_bias, sample_axis=0)

    def estimated(self):  # type: ignore[no-untyped-def]
        return iter((self.in_proj_weight, self.in_proj_bias))

    def _check_attention(self, query: Tensor, is_causal: bool, attn_mask: Tensor | None) -> None:
        where = f"multi_head_attention {self.path!r}"
        found = unsupported_attention(self)
        if found:
            raise ValueError(f"{where}: {found}")
        if query.is_nested:
            raise TypeError(f"{where}: a robust layer needs dense tensors, found a nested one")
        if query.ndim != 3:
            raise ValueError(
                f"{where}: a robust layer needs a batch: query must have 3 axes, found shape "
                f"{tuple(query.shape)}"
            )
        if is_causal and attn_mask is None:
            raise RuntimeError(f"{where}: is_causal=True needs an attn_mask, as in PyTorch")


def unsupported_attention(module: nn.MultiheadAttention) -> str:
    """Why an attention has no robust form; empty where it has one."""
    if not module._qkv_same_embed_dim:
        return (
            f"a robust attention needs keys and values of the size of the queries, found "
            f"kdim={module.kdim}, vdim={module.vdim} and embed_dim={module.embed_dim}"
        )
    if module.bias_k is not None or module.add_zero_attn:
        return (
            "a robust attention has no add_bias_kv and no add_zero_attn, found "
            f"add_bias_kv={module.bias_k is not None} and add_zero_attn={module.add_zero_attn}"
        )
    return ""


def _samples_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each with its first two axes exchanged; what was one tensor stays one."""
    turned: list[Tensor] = []
    for number, one in enumerate(tensors):
        known = [i for i in range(number) if tensors[i] is one]
        turned.append(turned[known[0]] if known else one.transpose(0, 1))
    return tuple(turned)


def _joined_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor
) -> Tensor | None:
    """Both masks as one that is added to the scores (N, heads, L, S); None where there is none."""
    n_samples, n_heads = q.shape[:2]
    total = None
    if attn_mask is not None:
        total = _added(attn_mask, q.dtype)
        if total.ndim == 3:
            total = total.reshape(n_samples, n_heads, *total.shape[1:])
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, q.dtype)[:, None, None, :]
        total = padding if total is None else total + padding
    return total


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
