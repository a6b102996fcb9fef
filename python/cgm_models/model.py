"""What a generative model is: a configuration, samples given a context, and a form on disk."""

from __future__ import annotations

import functools
import inspect
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Generator, Tensor, nn

from cgm_kernels import checks

from . import registry
from .training.files import write_atomic

FORMAT_VERSION = 1
WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
_METADATA_KEY = "cgm_model"

Model = TypeVar("Model", bound="GenerativeModel")


class GenerativeModel(nn.Module):
    """A model of points of shape ``event_shape``, whose constructor arguments are its whole configuration.

    A subclass calls ``super().__init__(event_shape, context_dim)``, implements ``sample``, and ``loss`` or ``fit``. Its
    arguments must be what JSON holds (numbers, strings, booleans, None, and lists or dictionaries of these): they are
    recorded as ``config``, and with the tensors of the state dictionary they are what ``save`` writes.
    """

    instead_of_log_prob: ClassVar[str] = "it offers no bound either; compare samples by cgm_models.metrics"
    """What a model without a tractable density offers in its place."""

    instead_of_objects: ClassVar[dict[str, str]] = {}
    """How arguments are given that users know as objects, which JSON cannot hold."""

    config: dict[str, Any]

    def __init__(self, event_shape: tuple[int, ...], context_dim: int = 0) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.context_dim = context_dim

    def __init_subclass__(cls, abstract: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]
        if not abstract and not cls.__name__.startswith("_"):
            registry.register(cls)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The scalar to minimise over ``x`` of shape ``(batch, *event)``."""
        raise NotImplementedError(f"{type(self).__name__} is not trained by gradient steps: use fit(x, context)")

    def fit(
        self: Model,
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: Generator | None = None,
        progress: bool = False,
        log: Callable[[dict[str, Any]], None] | None = None,
    ) -> Model:
        """Fit the model to ``x`` of shape ``(n, *event)`` where that is not done by gradient steps on ``loss``.

        ``generator`` is a CPU generator, ``progress`` shows a bar, ``log`` is called with what is measured on the way.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is trained by gradient steps on loss(x, context): it has no fit"
        )

    def sample(self, n: int, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """``(n, *event)``; the context ``(c,)`` conditions all samples, row i of a context ``(n, c)`` sample i."""
        raise NotImplementedError(f"{type(self).__name__} does not implement sample")

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch,)``, in nats, where the density is tractable."""
        raise NotImplementedError(f"{type(self).__name__} has no tractable log_prob: {self.instead_of_log_prob}")

    def status(self) -> str:
        """How far the training came, in a few words; empty where the model does not keep count."""
        return ""

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write ``weights.safetensors`` and ``config.json`` into ``directory``.

        The weights carry the configuration too, and go to their place in one rename: interrupted at any moment, the
        directory holds the old model or the new one, whole. ``config.json`` is the copy for people.
        """
        from safetensors.torch import save

        description = json.dumps(self._description(), indent=2)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        _refuse_shared(tensors)
        write_atomic(Path(directory) / WEIGHTS, save(tensors, metadata={_METADATA_KEY: description}))
        write_atomic(Path(directory) / CONFIG, description + "\n")

    def _description(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, "model": type(self).__name__, "config": self.config}


def load(directory: str | os.PathLike[str]) -> GenerativeModel:
    """The model that ``save`` wrote into ``directory``, on the CPU, in its dtype. No code from the files is ever run.

    Raises:
        FileNotFoundError: if there is no model there.
        ValueError: if the files are damaged, come from a newer version, or name an unknown model.
    """
    path = Path(directory) / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no saved model: there is no {WEIGHTS} in it")
    description, tensors = _read(path)
    _compare_copy(Path(directory) / CONFIG, description)
    try:
        model = registry.find(description["model"])(**description["config"])
        dtypes = {tensors[name].dtype for name, _ in model.named_parameters() if name in tensors}
        if len(dtypes) == 1 and dtypes != {parameter.dtype for parameter in model.parameters()}:
            model.to(dtypes.pop())
        model.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the model {description['model']}: {error}") from error
    return model.eval()


def _recording(init: Any) -> Any:
    """``init`` that first records the arguments of the outermost constructor as the configuration."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recording_init(self: GenerativeModel, *args: Any, **kwargs: Any) -> None:
        if "config" not in self.__dict__:
            args, kwargs = _with_ints(args), _with_ints(kwargs)
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = dict(list(bound.arguments.items())[1:])
            config = {name: _plain(type(self), name, value) for name, value in arguments.items()}
            object.__setattr__(self, "config", config)  # nn.Module is not set up yet
        init(self, *args, **kwargs)

    return recording_init


def _with_ints(value: Any) -> Any:
    """``value`` with the whole numbers in it as ints, which those of NumPy are not for JSON."""
    if isinstance(value, dict):
        return {name: _with_ints(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(_with_ints, value))
    try:
        return checks.integer("value", value)
    except TypeError:
        return value


def _plain(model: type[GenerativeModel], name: str, value: Any) -> Any:
    """``value`` as JSON would give it back."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        hint = f"; {model.instead_of_objects[name]}" if name in model.instead_of_objects else ""
        raise TypeError(
            f"{model.__name__}: argument {name} must be what JSON can hold: got {value!r} ({error}){hint}"
        ) from None


def _refuse_shared(tensors: dict[str, Tensor]) -> None:
    """Tensors that share memory would come back as separate ones; say so rather than lose the tie."""
    seen: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and (other := seen.setdefault(tensor.data_ptr(), name)) != name:
            raise ValueError(f"{name} and {other} share memory: register one of them only")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    if text is None:
        raise ValueError(f"{path} was not written by GenerativeModel.save: it does not describe its model")
    description = _parse(text, path)
    if not isinstance(description.get("model"), str) or not isinstance(description.get("config"), dict):
        raise ValueError(f"{path} does not name its model and configuration")
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version!r}; this cgm_models reads version {FORMAT_VERSION}")
    return description, tensors


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        description = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} does not hold valid JSON: {error}") from error
    if not isinstance(description, dict):
        raise ValueError(f"{path} must describe the model by a JSON object: got {type(description).__name__}")
    return description


def _compare_copy(path: Path, description: dict[str, Any]) -> None:
    """Warn when the readable copy was edited: what counts is the description inside the weights."""
    if path.is_file():
        try:
            copy = _parse(path.read_text(errors="replace"), path)
        except ValueError as error:
            raise ValueError(f"{error}; delete it to load from {WEIGHTS} alone") from error
        if copy != description:
            warnings.warn(f"{path} differs from the configuration inside {WEIGHTS}, which is used", stacklevel=3)
