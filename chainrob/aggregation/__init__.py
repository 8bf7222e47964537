"""From a layer's arrays to robust gradients, whatever framework the layer belongs to.

A front (Chainer's functions and links, PyTorch's modules) says how a layer's sample gradients are
built (``chainrob.builders``) and hands over arrays; scope, scale, watching, recording for a whole
model and second derivatives are decided here, once:

- ``layer_options``: robustifier, loss reduction and scope of a layer, their checks, and the switch
  back to plain sums.
- ``layer_gradients``: one backward pass of one layer, and the derivative of it.
- ``model_gradients``: one estimate for all parameters of a model, from what the layers recorded.
- ``scopes``: which gradients form one row.
- ``observers``, ``recorder``: who watches, and who waits for the end of the pass.
- ``sample_index``: which rows are one sample, where the first axis does not say it.
"""

from chainrob.aggregation.layer_gradients import LayerGradients
from chainrob.aggregation.layer_options import (
    Aggregation,
    Reduction,
    Scope,
    check_options,
    exact_backward,
    is_exact,
)
from chainrob.aggregation.model_gradients import Entry, mean_gradients, model_gradients
from chainrob.aggregation.observers import Observation, add_observer, remove_observer
from chainrob.aggregation.recorder import Recorder, Recording
from chainrob.aggregation.sample_index import SampleAxisWarning, samples

__all__ = [
    "Aggregation",
    "Entry",
    "LayerGradients",
    "Observation",
    "Recorder",
    "Recording",
    "Reduction",
    "SampleAxisWarning",
    "Scope",
    "add_observer",
    "check_options",
    "exact_backward",
    "is_exact",
    "mean_gradients",
    "model_gradients",
    "remove_observer",
    "samples",
]
