"""Derivatives of the first order only: a second one raises, and is never silently zero."""

import functools

import torch

from drrlib.errors import BackendError


def first_order(backward):
    """Wraps the `backward` of an autograd Function that has no derivative of its own.

    torch's once_differentiable lets a second derivative be zero, without a word, where the
    gradient that comes in has no history. The gradients hang on all that `ctx` has saved, so save
    every input that they depend on.
    """

    @functools.wraps(backward)
    def wrapper(ctx, *grads):
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():  # nobody asked for create_graph
            return found
        causes = [x for x in (*grads, *ctx.saved_tensors) if x is not None and x.requires_grad]
        return tuple(x if x is None else _Last.apply(x, *causes) for x in found)

    return wrapper


def refuse(ctx, *grads):
    """The backward of a gradient."""
    raise BackendError(
        "a second derivative was asked for (create_graph, hessian, jvp by two backward passes); "
        "drrlib computes first ones: take differences of the gradient, or Gauss-Newton steps with "
        "drr.jacobian(eta)"
    )


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, *causes):
        return x.view_as(x)

    backward = staticmethod(refuse)
