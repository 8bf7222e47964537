"""Derivatives: numerical, forward and reverse mode, through an argmin, and of deep functions.

Numerical: ``forward_difference``, ``backward_difference``, ``central_difference``,
``complex_step``, ``regression_gradient``, ``directional_derivative``, ``spsa``.
Chainer functions: ``jvp``, ``vjp``, ``jacobian``, ``hessian``, ``hessian_vector_product``,
``evaluation_trace``. Optima: ``argmin``, ``check_argmin``. Networks: ``DeepFunction``.
"""

from chainrob.differentiation._conjugate_gradients import LinearSolve
from chainrob.differentiation._evaluation import DifferenceInfo
from chainrob.differentiation._kinks import subgradient
from chainrob.differentiation.adjoint_pass import AdjointPass, PassCosts, TangentPass
from chainrob.differentiation.argmin import (
    ArgminReport,
    NotAMinimumError,
    argmin,
    argmin_report,
)
from chainrob.differentiation.argmin_layer import ArgminLayer
from chainrob.differentiation.check_argmin import ArgminCheck, check_argmin
from chainrob.differentiation.complex_step import NotAnalyticError, complex_step
from chainrob.differentiation.constraints import Box, LinearEqualities, Simplex
from chainrob.differentiation.deep_function import DeepFunction
from chainrob.differentiation.directional_derivative import directional_derivative
from chainrob.differentiation.evaluation_trace import (
    EvaluationTrace,
    OperationCounts,
    Step,
    evaluation_trace,
)
from chainrob.differentiation.finite_differences import (
    backward_difference,
    central_difference,
    forward_difference,
)
from chainrob.differentiation.forward_and_reverse import Functional, functional
from chainrob.differentiation.gauss_newton import gauss_newton_vector_product
from chainrob.differentiation.gradient_fit import fit_gradient
from chainrob.differentiation.jacobian_products import JacobianProduct, jacobian_product
from chainrob.differentiation.modes import hessian, hessian_vector_product, jacobian, jvp, vjp
from chainrob.differentiation.node import Node
from chainrob.differentiation.per_sample_gradients import (
    PerSampleGradients,
    per_sample_gradients,
)
from chainrob.differentiation.regression_gradient import regression_gradient
from chainrob.differentiation.spsa_gradient import spsa
from chainrob.differentiation.unrolled import (
    DerivativeComparison,
    compare_derivatives,
    unrolled_argmin,
)

__all__ = [
    "AdjointPass",
    "ArgminCheck",
    "ArgminLayer",
    "ArgminReport",
    "Box",
    "DeepFunction",
    "DerivativeComparison",
    "DifferenceInfo",
    "EvaluationTrace",
    "Functional",
    "JacobianProduct",
    "LinearEqualities",
    "LinearSolve",
    "Node",
    "NotAMinimumError",
    "NotAnalyticError",
    "OperationCounts",
    "PassCosts",
    "PerSampleGradients",
    "Simplex",
    "Step",
    "TangentPass",
    "argmin",
    "argmin_report",
    "backward_difference",
    "central_difference",
    "check_argmin",
    "compare_derivatives",
    "complex_step",
    "directional_derivative",
    "evaluation_trace",
    "fit_gradient",
    "forward_difference",
    "functional",
    "gauss_newton_vector_product",
    "hessian",
    "hessian_vector_product",
    "jacobian",
    "jacobian_product",
    "jvp",
    "per_sample_gradients",
    "regression_gradient",
    "spsa",
    "subgradient",
    "unrolled_argmin",
    "vjp",
]
