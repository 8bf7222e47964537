"""One case a robust link and setting: how to build it, stock and robust, and what to feed it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import chainrob
import chainer

R = chainrob.links
L = chainer.links


@dataclass(frozen=True, eq=False)
class Case:
    """A link's class name, its arguments, and the shape of one sample of x (or its ids)."""

    name: str
    link: str
    args: tuple[Any, ...]
    shape: tuple[int, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    n_ids: int | None = None

    def stock(self, dtype: Any = np.float64, seed: int = 0) -> chainer.Link:
        return self._make(getattr(L, self.link), {}, dtype, seed)

    def robust(self, dtype: Any = np.float64, seed: int = 0, **settings: Any) -> Any:
        return self._make(getattr(R, self.link), settings, dtype, seed)

    def _make(self, kind: Callable[..., Any], settings: Any, dtype: Any, seed: int) -> Any:
        with chainer.using_config("dtype", np.dtype(dtype)):
            link = kind(*self.args, **self.kwargs, **settings)
            rng = np.random.default_rng(seed)
            if any(p.array is None for p in link.params()):
                link(self.inputs(1, dtype), **self.call)
            for _, parameter in sorted(link.namedparams()):
                parameter.array = rng.normal(size=parameter.shape).astype(dtype)
        return link

    def inputs(self, n: int, dtype: Any = np.float64, seed: int = 1) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if self.n_ids is not None:
            return rng.integers(0, self.n_ids, size=(n, *self.shape)).astype(np.int32)
        return rng.normal(size=(n, *self.shape)).astype(dtype)


CASES = [
    Case("linear", "Linear", (3, 4), (3,)),
    Case("linear_nobias", "Linear", (3, 4), (3,), {"nobias": True}),
    Case("linear_image", "Linear", (6, 2), (2, 3)),
    Case("linear_time", "Linear", (3, 4), (5, 3), call={"n_batch_axes": 2}),
    Case("conv_1d", "Convolution1D", (2, 3, 3), (2, 7), {"pad": 1}),
    Case("conv_2d", "Convolution2D", (2, 3, 3), (2, 5, 6), {"stride": 2, "pad": 1}),
    Case("conv_2d_uneven", "Convolution2D", (2, 3, (2, 3)), (2, 5, 6), {"stride": (1, 2)}),
    Case("conv_2d_dilate", "Convolution2D", (2, 3, 2), (2, 6, 5), {"dilate": 2, "pad": (0, 1)}),
    Case("conv_2d_groups", "Convolution2D", (4, 6, 2), (4, 4, 3), {"groups": 2}),
    Case("conv_2d_depthwise", "Convolution2D", (3, 3, 2), (3, 4, 4), {"groups": 3, "nobias": True}),
    Case("conv_2d_point", "Convolution2D", (3, 2, 1), (3, 1, 1)),
    Case("conv_3d", "Convolution3D", (1, 2, 2), (1, 3, 4, 3), {"pad": 1, "stride": 2}),
    Case("conv_nd", "ConvolutionND", (2, 2, 3, 2), (2, 5, 5), {"cover_all": True, "stride": 2}),
    Case("conv_nd_groups", "ConvolutionND", (1, 4, 2, 3), (4, 9), {"groups": 2, "dilate": 2}),
    Case("dilated", "DilatedConvolution2D", (2, 3, 2), (2, 6, 6), {"dilate": 2, "pad": 1}),
    Case("deconv_1d", "Deconvolution1D", (2, 3, 3), (2, 4), {"stride": 2}),
    Case("deconv_2d", "Deconvolution2D", (2, 3, 3), (2, 3, 4), {"stride": 2, "pad": 1}),
    Case(
        "deconv_2d_out", "Deconvolution2D", (2, 3, 2), (2, 3, 3), {"stride": 2, "outsize": (7, 7)}
    ),
    Case("deconv_2d_groups", "Deconvolution2D", (4, 6, 2), (4, 3, 3), {"groups": 2}),
    Case("deconv_3d", "Deconvolution3D", (1, 2, 2), (1, 2, 3, 2), {"pad": 1, "stride": 2}),
    Case("deconv_nd", "DeconvolutionND", (2, 4, 2, 2), (4, 3, 3), {"groups": 2, "dilate": 2}),
    Case("embed", "EmbedID", (9, 3), (), n_ids=9),
    Case("embed_text", "EmbedID", (6, 3), (5,), {"ignore_label": 2}, n_ids=6),
    Case("embed_large", "EmbedID", (500, 2), (3,), {"ignore_label": -1}, n_ids=500),
    Case("layer_norm", "LayerNormalization", (5,), (5,)),
    Case("group_norm", "GroupNormalization", (2, 4), (4, 3, 2)),
    Case("scale", "Scale", (1, (3,)), (3, 4)),
    Case("scale_bias", "Scale", (1, (3,)), (3, 2, 2), {"bias_term": True}),
    Case("scale_axis", "Scale", (2, (4,)), (3, 4)),
    Case("bias", "Bias", (1, (3, 4)), (3, 4, 2)),
    Case("prelu", "PReLU", ((3,),), (3, 4)),
    Case("prelu_one", "PReLU", ((),), (3,)),
    Case("swish", "Swish", ((3,),), (3, 4)),
    Case("swish_lazy", "Swish", (None,), (3, 2)),
]
