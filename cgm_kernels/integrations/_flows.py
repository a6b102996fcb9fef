"""What the flow libraries share: which calls our kernels may take, couplings of any split, tests of masked networks."""

from __future__ import annotations

import importlib.metadata
import re
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from ..coupling.layout import INDEX, Layout
from ..coupling.masked_affine import masked_mlp_affine
from ..coupling.op import affine_coupling, affine_coupling_event, affine_coupling_inverse
from ._arrays import tensors
from ._library import PassOn

_Value = TypeVar("_Value")

ACTIVATIONS: dict[Any, str] = {
    **{F.relu: "relu", torch.relu: "relu", F.tanh: "tanh", torch.tanh: "tanh", F.silu: "silu", F.gelu: "gelu"},
    **{F.sigmoid: "sigmoid", torch.sigmoid: "sigmoid", F.elu: "elu", F.softplus: "softplus"},
}


def plain(first: Any, *others: Any) -> None:
    """Raise :class:`PassOn` unless all are dense float tensors of one dtype and device, outside of transforms."""
    if not isinstance(first, Tensor):
        raise PassOn("arguments that are not tensors")
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise PassOn("torch.func")
    if forward_ad._current_level >= 0:  # whoever carries tangents: the parameters of a network are not among these
        raise PassOn("forward-mode derivatives")
    tensors(first)
    for one in others:
        if type(one) is not Tensor and type(one) is not nn.Parameter:
            raise PassOn("arguments that are not plain tensors")
        if one.dtype is not first.dtype or one.device != first.device or one.layout is not torch.strided:
            raise PassOn("tensors of two dtypes, devices or layouts")


def parameters_of(network: nn.Module, x: Tensor, given: Tensor, *context: Any) -> Tensor:
    """``network(given, *context)``, a tensor that goes with x."""
    parameters = network(given, *context)
    plain(x, parameters)
    return parameters


def couple(
    x: Tensor, parameters: Tensor, moved: slice | Tensor, layout: str, *, inverse: bool, **scale: Any
) -> tuple[Tensor, Tensor]:
    """A coupling that transforms the channels ``moved`` of x (B, C, …), a slice or an index, by ``parameters``."""
    count = len(range(x.shape[1])[moved]) if isinstance(moved, slice) else len(moved)
    if parameters.shape != (x.shape[0], 2 * count, *x.shape[2:]):
        raise PassOn("parameters of another shape")
    if isinstance(moved, slice) and (x.dim() == 2 or (moved.step in (None, 1) and not layout.startswith("inter"))):
        return affine_coupling_event(x, parameters, moved, layout=layout, inverse=inverse, **scale)
    return couple_by(x, *Layout(0, count, 1, INDEX[layout]).split_parameters(parameters), moved, inverse, **scale)


def couple_by(
    x: Tensor, log_scale: Tensor, shift: Tensor, moved: slice | Tensor, inverse: bool, **scale: Any
) -> tuple[Tensor, Tensor]:
    """As :func:`couple`, by log-scales and shifts of the shape of what is transformed."""
    map = affine_coupling_inverse if inverse else affine_coupling
    part, log_det = map(select(x, moved, 1), log_scale, shift, **scale)
    if isinstance(moved, slice):
        return torch.slice_scatter(x, part, 1, moved.start, moved.stop, moved.step or 1), log_det
    return x.index_copy(1, moved, part), log_det


def select(x: Tensor, where: slice | Tensor, dim: int) -> Tensor:
    """The part of x that a slice, as a view, or an index picks along ``dim``."""
    if isinstance(where, slice):
        return x[(slice(None),) * dim + (where,)]
    return x.index_select(dim, where)


def as_slice(index: Tensor) -> slice | Tensor:
    """The slice that selects what ``index`` does, or the index itself where there is none."""
    places = index.tolist()
    if not places:
        return slice(0, 0)
    step = places[1] - places[0] if len(places) > 1 else 1
    if step < 1 or places != list(range(places[0], places[-1] + 1, step)):
        return index
    return slice(places[0], places[-1] + 1, step)


def take(x: Tensor, channels: slice | Tensor) -> Tensor:
    """A contiguous copy of some channels, which a network may change in place."""
    part = select(x, channels, 1)
    return part.clone(memory_format=torch.contiguous_format) if isinstance(channels, slice) else part


_remembered: weakref.WeakKeyDictionary[Any, tuple[list[_Seen], Any]] = weakref.WeakKeyDictionary()


def remembered(owner: Any, sources: Sequence[Tensor], make: Callable[..., _Value]) -> _Value:
    """``make(*sources)``, kept with ``owner`` until one of these buffers is another or has changed.

    On the CPU numbers are compared with a copy, so that no change is missed. Elsewhere that would make the host wait:
    there a change that autograd does not count, as ``buffer.data.copy_(…)``, is not seen.
    """
    kept = _remembered.get(owner)
    if kept is not None and all(map(_Seen.still, kept[0], sources)):
        return kept[1]
    seen = [_Seen(source) for source in sources]
    value = make(*sources)
    _remembered[owner] = seen, value
    return value


class _Seen:
    """A tensor as it was."""

    def __init__(self, tensor: Tensor) -> None:
        self.numbers = tensor.detach().clone() if tensor.is_cpu else tensor.detach()  # which holds on to the memory
        self.tensor, self.version = weakref.ref(tensor), _version(tensor)

    def still(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is the same."""
        numbers = self.numbers
        if numbers.is_cpu:
            return tensor.is_cpu and tensor.dtype is numbers.dtype and torch.equal(tensor, numbers)
        same_memory = tensor.data_ptr() == numbers.data_ptr() and tensor.shape == numbers.shape
        return same_memory and self.tensor() is tensor and self.version == _version(tensor)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def refuse_hooks(*modules: nn.Module, inside: bool = True) -> None:
    """Raise :class:`PassOn` where calling modules (and those inside) would do more than the methods of their class."""
    if torch_module._has_any_global_hook():
        raise PassOn("hooks")
    found = list(modules)
    for module in found:  # which grows
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            raise PassOn("hooks")
        own = vars(module)
        if "forward" in own or "inverse" in own:
            raise PassOn("a method replaced in one object")
        if inside:
            found.extend(child for child in own["_modules"].values() if child is not None)


def activation_name(activation: Any) -> str:
    """What masked_mlp_affine and masked_mlp_inverse call this function or module."""
    if not isinstance(activation, nn.Module):
        name = ACTIVATIONS.get(activation) if callable(activation) else None
    else:
        name = _module_activation(activation)
    if name is None:
        raise PassOn("an activation that the kernel does not have")
    return name


def _module_activation(module: nn.Module) -> str | None:
    kind = type(module)
    if kind is nn.GELU and module.approximate == "none":
        return "gelu"
    if kind is nn.ELU and module.alpha == 1.0:
        return "elu"
    if kind is nn.Softplus and module.beta == 1.0 and module.threshold == 20.0:
        return "softplus"
    return {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.SiLU: "silu"}.get(kind)


def autoregressive(map: Callable[..., tuple[Tensor, Tensor]], *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """``map``, masked_mlp_affine or its inverse; masks that are autoregressive in no order are the library's.

    So is the network of a forward pass whose residual blocks see the context, which the kernel would hand to a
    composition.
    """
    by_row = any(bias is not None and bias.dim() > 1 for bias in options["biases"])
    if map is masked_mlp_affine and options.get("residual") and by_row:
        raise PassOn("residual blocks with a context")
    try:
        return map(*args, **options)
    except ValueError as error:
        if "autoregressive" in str(error):
            raise PassOn("masks that are not autoregressive") from None
        raise


def version_check(package: str, oldest: tuple[int, ...], beyond: tuple[int, ...]) -> Callable[[ModuleType], None]:
    """Raises RuntimeError unless oldest <= the version installed < beyond."""

    def check(module: ModuleType) -> None:
        version = str(getattr(module, "__version__", None) or importlib.metadata.version(package))
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
        if not oldest <= numbers < beyond:
            span = f"{'.'.join(map(str, oldest))} to before {'.'.join(map(str, beyond))}"
            raise RuntimeError(f"the patch of {package} is known to keep its behaviour for {span}: found {version}")

    return check
