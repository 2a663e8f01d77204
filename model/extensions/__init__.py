"""The second slot: `Extension`, which stretches a trained encoding to longer text, at test time or for a second stage.

A method is a pure function of (encoding, training length, evaluation length, settings): `apply` returns another
encoding, a light view that shares the trained parameters, and leaves the original as it was. Results therefore never
depend on the order of evaluation. The view takes the encoding's place for a call: `model.hidden(tokens,
encoding=view)`. One paper is one file in this folder; conf/extension has a yaml for each method.

A second stage puts the view into the model for good, with N its final length, and trains on. A view is therefore an
encoding like any other: its parameters train, its state_dict has the encoding's keys (and what the method itself has to
keep), and another extension may be applied to it, from N to a longer M; where two don't go together, `fits` says why.

L is the training length, N the evaluation length, both in tokens; s = N / L the stretch. At s ≤ 1 there is nothing to
extend, so a method returns the encoding itself, but for those that say `at_any_length`.

Where layers differ (`encoding=layers`), a method is given their parts one by one, and never the whole: by default those
that see everything, since within a window no distance is longer than in training (`Extension.layers`).

Shapes in names as in model/encodings; P pairs of a rotation.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from model.catalogue import extension_config, extension_names
from model.encodings import PositionEncoding, configured_class, evaluated, named
from model.encodings.layers import Layers
from model.encodings.rope_placement import RoPEPlacement

__all__ = [
    "Extension",
    "Loss",
    "build_extension",
    "extension_config",
    "extension_names",
    "parts",
    "stretch_reason",
    "view",
    "view_of_all",
    "with_plain_positions",
]

CONTAINERS = (nn.ModuleList, nn.ModuleDict)
Loss = Callable[[PositionEncoding], float]  # nats a token on the calibration split, under this encoding


class Extension:
    """No extension, and the base of all others: settings only, no parameters, no memory of what it was applied to.

    A method that changes one kind of encoding overrides `fits_part` and `extend_part`, and then also reaches that kind
    inside a wrapper or a combination (ALiBi under DAPE, RoPE beside a gate); parts that it doesn't fit stay as trained.
    One that changes attention as a whole overrides `fits` and `extend`.

    needs_tuning: `tune` has something to choose, so it is to be called before `apply`, with a loss on the calibration
        split (never on the tokens that are scored).
    at_any_length: it acts at s ≤ 1 too, so that a stage at the parent's own context can be trained with it.
    layers: where they differ, which it acts on: "global" ones, or "all" (conf/extension/layers.yaml); a part with a
        window keeps it.
    by_layer: where layers differ, `fits` and `extend` are for their parts, and `apply` does the rest.
    note: how `tune` chose the settings, for the row of results.
    """

    layers: str = "global"
    by_layer: bool = True
    needs_tuning: bool = False
    at_any_length: bool = False
    note: str = ""

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        for name, of_layers in (("fits", Extension._layers_fit), ("extend", Extension._extend_layers)):
            if cls.by_layer and name in vars(cls):
                setattr(cls, name, _or_by_layer(vars(cls)[name], of_layers))

    def apply(self, encoding: PositionEncoding, train_length: int, eval_length: int) -> PositionEncoding:
        """The encoding for text of eval_length tokens, where it was trained on train_length: a view, or the encoding
        itself where eval_length ≤ train_length (see `at_any_length`). Positions that a stage before has drawn in
        training are drawn no more. Raises ValueError where it doesn't fit, or with settings that can't be.
        """
        if reason := self.fits(encoding):
            raise ValueError(f"extension {type(self).__name__} does not apply: {reason}")
        if train_length < 2:
            raise ValueError(f"train_length={train_length}: must be at least 2 tokens")
        if eval_length <= train_length and not self.at_any_length:
            return encoding
        if getattr(encoding, "drawing", False):
            encoding = view_of_all(encoding, drawing=False)
        return self.extend(encoding, train_length, eval_length)

    def trains(self) -> str | None:
        """None where a model can be trained with the view, else why not, in a sentence: gradients don't pass through
        it, or rows see what comes after them in training."""
        return None

    def final_length(self, context: int) -> int:
        """The eval_length to `apply` it with for a stage that trains on windows of `context` tokens: that, but for
        methods with a length of their own."""
        return context

    def fits(self, encoding: PositionEncoding) -> str | None:
        """None where the method can extend this encoding (in evaluation mode), else why not, in a sentence."""
        if isinstance(encoding, Layers):
            return self._layers_fit(encoding)
        reasons = [self.fits_part(part) for part in parts(encoding)]
        return None if None in reasons else reasons[0]

    def extend(self, encoding: PositionEncoding, train_length: int, eval_length: int) -> PositionEncoding:
        """`apply`, where eval_length > train_length (or `at_any_length`) and the encoding fits."""
        if isinstance(encoding, Layers):
            return self._extend_layers(encoding, train_length, eval_length)
        return self._extend_parts(encoding, train_length, eval_length)

    def fits_part(self, part: PositionEncoding) -> str | None:
        """`fits` for an encoding that holds no other."""
        return None

    def extend_part(self, part: PositionEncoding, train_length: int, eval_length: int) -> PositionEncoding:
        """`extend` for an encoding that holds no other and fits."""
        return part

    def tune(self, loss: Loss, encoding: PositionEncoding, train_length: int, eval_length: int) -> Extension:
        """The method with settings chosen by `loss`; itself where there is nothing to choose (see `needs_tuning`)."""
        return self

    def describe(self) -> str:
        """The settings that are not left to the method, and how they were chosen.

        >>> build_extension({"_target_": "model.extensions.rerope.LeakyReRoPE", "window": 16}).describe()
        'window=16'
        """
        shown = []
        for name in inspect.signature(type(self)).parameters:
            value = vars(self).get(name)
            if value is not None and value is not False:
                values = value if isinstance(value, tuple) else (value,)
                shown.append(f"{name}={' '.join(map(_shown, values))}")
        return ", ".join([*shown, self.note] if self.note else shown)

    def settings(self) -> dict[str, Any]:
        """The settings as a config holds them, those that `tune` chose among them: with the config's other keys they
        build the same method again.

        >>> build_extension({"_target_": "model.extensions.ntk.DynamicNTK"}).settings()
        {'alpha': 2.0}
        """
        return {name: _plain(vars(self).get(name)) for name in inspect.signature(type(self)).parameters}

    def _acts_on(self, encoding: Layers) -> dict[str, PositionEncoding]:
        """The parts of layers that differ which it acts on, those with a window as if they had none."""
        chosen = {name: part for name, part in encoding.parts.items() if self.layers == "all" or part.sees is None}
        return {name: part if part.sees is None else view_of_all(part, sees=None) for name, part in chosen.items()}

    def _layers_fit(self, encoding: Layers) -> str | None:
        if not (chosen := self._acts_on(encoding)):
            return "a row sees its window alone in all layers, so that no distance is longer than in training"
        reasons = [self.fits(part) for part in chosen.values()]
        return None if None in reasons else f"of the layers that it would act on, {', '.join(chosen)}: {reasons[0]}"

    def _extend_layers(self, encoding: Layers, train_length: int, eval_length: int) -> Layers:
        outer, inside = view(encoding), view(encoding.parts)
        for name, part in self._acts_on(encoding).items():
            if self.fits(part) is None:
                inside._modules[name] = extended = self.apply(part, train_length, eval_length)
                if (old := encoding.parts[name]).sees is not None and extended.band == old.band:
                    extended.narrow(old.sees)  # a view, as all that it holds
        outer._modules["parts"] = inside
        outer.claim()
        return outer

    def _chosen(self, note: str, **settings: Any) -> Extension:
        """The same method with other settings, and the note that says where they are from."""
        chosen = copy.copy(self)
        vars(chosen).update(settings, note=note)
        return chosen

    def _extend_parts(self, encoding: PositionEncoding, train_length: int, eval_length: int) -> PositionEncoding:
        if not (inner := _inner(encoding)):
            return encoding if self.fits_part(encoding) else self.extend_part(encoding, train_length, eval_length)
        outer = self._extend_children(encoding, train_length, eval_length)
        for old, new in zip(inner, _inner(outer), strict=True):
            _pass_on_claims(outer, old, new)
        return outer

    def _extend_children(self, module: nn.Module, *lengths: int) -> nn.Module:
        outer = view(module)
        for name, child in module.named_children():
            if isinstance(child, PositionEncoding):
                outer._modules[name] = self._extend_parts(child, *lengths)
            elif isinstance(child, CONTAINERS):
                outer._modules[name] = self._extend_children(child, *lengths)
        return outer


class Around(Extension):
    """An extension around another one, `inner`, which is what there is to tune, and what gradients pass through.
    Raises ValueError where the inner one is no extension."""

    def __init__(self, inner: Extension):
        if not isinstance(inner, Extension):
            raise ValueError(f"extension.inner={inner!r}: must be an extension; name one")
        self.inner = inner

    @property
    def needs_tuning(self):
        return self.inner.needs_tuning

    def tune(self, loss, encoding, train_length, eval_length):
        inner = self.inner.tune(loss, encoding, train_length, eval_length)
        return self if inner is self.inner else self._chosen("", inner=inner)

    def trains(self):
        return self.inner.trains()


def _or_by_layer(method: Callable, of_layers: Callable) -> Callable:
    """A method of an extension that is given an encoding, or where layers differ the one for those."""

    @functools.wraps(method)
    def chosen(self: Extension, encoding: PositionEncoding, *lengths: int) -> Any:
        return (of_layers if isinstance(encoding, Layers) else method)(self, encoding, *lengths)

    return chosen


def view(module: nn.Module, mixin: type | None = None, **attributes: Any) -> Any:
    """Another module with the same parameters and buffers (shared, not copied): the mixin's methods come before the
    module's own, which they reach by super(), and the attributes are set on the view alone. A mixin that the module has
    already is not put before it again: attributes of that view take the place of the earlier ones, so that who stacks
    views makes them of both."""
    cls = type(module)
    if mixin is not None and not issubclass(cls, mixin):
        cls = _mixed(mixin, cls)
    new = cls.__new__(cls)
    new.__dict__ = module.__dict__.copy()
    for registry in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_constants", "_modules"):
        if registry in module.__dict__:  # a container has no constants
            new.__dict__[registry] = module.__dict__[registry].copy()
    new.__dict__.update(attributes)
    return new


def view_of_all(module: nn.Module, mixin: type | None = None, **attributes: Any) -> Any:
    """`view`, of the encodings that it holds too, each with the same mixin and attributes."""
    encoding = isinstance(module, PositionEncoding)
    outer = view(module, mixin if encoding else None, **(attributes if encoding else {}))
    for name, child in module.named_children():
        if isinstance(child, (PositionEncoding, *CONTAINERS)):
            outer._modules[name] = view_of_all(child, mixin, **attributes)
    return outer


def not_relative(encoding: PositionEncoding) -> dict[str, bool]:
    """The attributes of a view that takes back the claim `relative`; but for RoPEPlacement, which goes by its own claim
    in what it turns."""
    return {} if isinstance(encoding, RoPEPlacement) else {"relative": False}


@functools.cache
def _mixed(mixin: type, cls: type) -> type:
    """One class for each pair, so that compiled code knows it again."""
    return type(f"{mixin.__name__}{cls.__name__}", (mixin, cls), {"__module__": cls.__module__})


def with_plain_positions(encoding: PositionEncoding) -> bool:
    """Whether its coordinates are the tokens' own 0..T−1: one axis, not drawn at random, not spread in advance."""
    tokens_BT = torch.zeros((1, encoding.shape.context), dtype=torch.long)
    with evaluated(encoding):
        positions = encoding.positions(tokens_BT.to(device_and_dtype(encoding)[0]))
    return torch.equal(positions.cpu(), torch.arange(encoding.shape.context))


def stretch_reason(encoding: PositionEncoding) -> str | None:
    """None where a longer text has longer distances between its tokens' own positions, which could be stretched; else
    why not."""
    name = type(encoding).__name__
    if not with_plain_positions(encoding):
        return f"the coordinates of {name} are not the tokens' own 0..T−1"
    if encoding.sees is not None:
        return f"a row of {name} sees no more than {encoding.sees} keys, so that no distance is longer than in training"
    return None


def device_and_dtype(encoding: PositionEncoding) -> tuple[torch.device, torch.dtype]:
    """The device of its parameters and buffers, and the type to try it out in: that of its parameters, float32 or
    better, since bf16 would not know a turn again. Its constants are float64 beside parameters of any type."""
    tensors = [*encoding.parameters(), *encoding.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    dtype = next((p.dtype for p in encoding.parameters()), torch.float32)
    return device, torch.promote_types(dtype, torch.float32)


def build_extension(config: Mapping[str, Any], group: str = "extension") -> Extension:
    """The extension of a config (`_target_`: a class under model.extensions; other keys: its settings).

    A setting that is itself such a config (an extension inside) is built first. Raises ValueError for an unknown class
    or setting, naming it and the group that the settings stand in.
    """
    with named(group, "extension"):
        cls, settings = configured_class(config, "extension", Extension)
    inner = {
        key: build_extension(value, f"{group}.{key}")
        for key, value in settings.items()
        if isinstance(value, Mapping) and "_target_" in value
    }
    with named(group, "extension"):
        return cls(**{**settings, **inner})


def _shown(value: Any) -> str:
    if isinstance(value, Extension):
        return f"{type(value).__name__}({value.describe()})".removesuffix("()")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Extension):
        return {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", **value.settings()}
    return list(value) if isinstance(value, tuple) else value


def parts(encoding: PositionEncoding) -> Iterator[PositionEncoding]:
    """The innermost encodings that a wrapper or a combination holds, or the encoding itself where it holds none; where
    layers differ, those that see everything first."""
    if not (inner := _inner(encoding)):
        yield encoding
    if isinstance(encoding, Layers):
        inner = sorted(inner, key=lambda part: part.sees is not None)
    for part in inner:
        yield from parts(part)


def _inner(module: nn.Module) -> list[PositionEncoding]:
    """The encodings that a module holds, directly or in a list or dict of modules."""
    found = []
    for child in module.children():
        if isinstance(child, PositionEncoding):
            found.append(child)
        elif isinstance(child, CONTAINERS):
            found += _inner(child)
    return found


def _pass_on_claims(outer: PositionEncoding, old: PositionEncoding, new: PositionEncoding) -> None:
    """A wrapper has its claims from the inner encoding: those that the view changes are changed there too."""
    for claim in ("max_length", "relative", "distance_bias", "separable_bias", "rescores", "sees"):
        if getattr(outer, claim) == getattr(old, claim):
            setattr(outer, claim, getattr(new, claim))
