"""Which layers an extension acts on, where they differ."""

import copy

from model.encodings.layers import Layers
from model.extensions import Around, Extension


class ExtensionOfLayers(Around):
    """The inner extension on all layers, those with a window too, or on the global ones alone, as it acts by itself.

    Within a window no distance is longer than in training, so that nothing needs to be stretched there; stretched along
    all the same, local layers turn at the angles of another length. Models differ: YaRN acts on all layers of gpt-oss,
    a scaling of positions on Gemma 3's global ones. A part with a window keeps it.

    inner: the extension. layers: all, or global. Raises ValueError for others; it fits encodings whose layers differ.
    """

    by_layer = False

    def __init__(self, inner: Extension, layers: str = "all"):
        if not isinstance(inner, Extension) or isinstance(inner, ExtensionOfLayers):
            raise ValueError(f"extension.inner={inner!r}: must be an extension that acts on layers; name one")
        super().__init__(copy.copy(inner))
        if layers not in ("all", "global"):
            raise ValueError(f"extension.layers={layers}: must be all or global")
        self.layers = self.inner.layers = layers

    @property
    def at_any_length(self):
        return self.inner.at_any_length

    def final_length(self, context):
        return self.inner.final_length(context)

    def fits(self, encoding):
        if not isinstance(encoding, Layers):
            return f"the layers of {type(encoding).__name__} are alike; give the extension inside by itself"
        return self.inner.fits(encoding)

    def extend(self, encoding, train_length, eval_length):
        return self.inner.apply(encoding, train_length, eval_length)
