"""Our Transformer's weights as a CTranslate2 model: a tuned engine's beam search as a yardstick.

CTranslate2 is the optional dependency `[speed]`. Subwords go by their numbers, so that no
vocabulary has to be exported: `translate` takes and gives ids.
"""

import importlib.util
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from lib.errors import ConfigError
from lib.layers import LONGEST, positions
from lib.subword import BOS, EOS, PAD, UNK

__all__ = ["Engine", "export", "is_installed"]

SPECIAL = {PAD: "<pad>", BOS: "<s>", EOS: "</s>", UNK: "<unk>"}


def is_installed() -> bool:
    """Whether CTranslate2 can be imported."""
    return importlib.util.find_spec("ctranslate2") is not None


def _library():
    """The library.

    Errors: ConfigError with the command that installs it.
    """
    if not is_installed():
        raise ConfigError("CTranslate2 isn't installed: "
                          "`.venv/bin/pip install -c constraints.txt -e '.[speed]'`")
    import ctranslate2
    return ctranslate2


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _norm(spec, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _layer(spec, layer: nn.Module) -> None:
    """What encoder and decoder layers share."""
    _norm(spec.self_attention.layer_norm, layer.norms[0])
    spec.self_attention.linear[0].weight = _array(layer.attention.qkv.weight)
    spec.self_attention.linear[1].weight = _array(layer.attention.out.weight)
    _norm(spec.ffn.layer_norm, layer.norms[-1])
    spec.ffn.linear_0.weight = _array(layer.feed_forward.inner.weight)
    spec.ffn.linear_1.weight = _array(layer.feed_forward.outer.weight)


def _stack(spec, stack: nn.Module, embedding: Tensor) -> None:
    """Layers, last norm, embeddings (scaled by sqrt(d_model)) and positions."""
    for layer_spec, layer in zip(spec.layer, stack.layers, strict=True):
        _layer(layer_spec, layer)
    _norm(spec.layer_norm, stack.norm)
    spec.scale_embeddings = True
    table = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    table.weight = _array(embedding)
    spec.position_encodings.encodings = _array(positions(LONGEST, embedding.shape[1]))


def export(model: nn.Module, folder: Path) -> Path:
    """Write a `lib.autoregressive.Transformer` as a CTranslate2 model, fp32; returns `folder`.

    Errors: ConfigError for a latent model, or without CTranslate2.
    """
    library = _library()
    if model.decoding != "stepwise":
        raise ConfigError("CTranslate2 decodes autoregressive models only: choose tr_s, tr_b or "
                          "tr_l")
    a, embedding = model.architecture, model.embedding.weight
    spec = library.specs.TransformerSpec.from_config(
        (a.encoder_layers, a.decoder_layers), a.heads, pre_norm=True)
    _stack(spec.encoder, model.encoder, embedding)
    _stack(spec.decoder, model.decoder, embedding)
    spec.decoder.projection.weight = _array(embedding)
    keys_values = model.decoder.source.weight.split([2 * a.d_model] * a.decoder_layers)
    for layer_spec, layer, both in zip(spec.decoder.layer, model.decoder.layers, keys_values,
                                       strict=True):
        _norm(layer_spec.attention.layer_norm, layer.norms[1])
        weights = layer.source_attention.query.weight, both, layer.source_attention.out.weight
        for linear, weight in zip(layer_spec.attention.linear, weights, strict=True):
            linear.weight = _array(weight)
    names = [SPECIAL.get(i, str(i)) for i in range(len(embedding))]
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary(names)
    spec.validate()
    spec.optimize()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    return folder


class Engine:
    """An exported model in CTranslate2, on one thread of the CPU or on the first GPU."""

    def __init__(self, folder: Path, weights: str = "float32", device: str = "cpu"):
        """`weights`: float32, float16, int8 ... as CTranslate2 names its compute types; `device`:
        cpu or cuda.
        """
        self.translator = _library().Translator(
            str(folder), device=device, inter_threads=1, intra_threads=1, compute_type=weights)

    def translate(self, rows: list[list[int]], width: int = 4, length: int | None = None,
                  ) -> tuple[list[list[int]], list[float]]:
        """Hypotheses (without EOS) and log p(y|x), not divided by a length penalty.

        `rows` are source subwords without EOS. With `length` every hypothesis takes that many
        steps, its EOS among them, so that work is that of a known output.
        """
        limits = {} if length is None else {"min_decoding_length": length,
                                            "max_decoding_length": length}
        named = [[*(SPECIAL.get(i, str(i)) for i in row), SPECIAL[EOS]] for row in rows]
        results = self.translator.translate_batch(
            named, beam_size=width, length_penalty=0.0, return_scores=True, max_batch_size=0,
            max_input_length=0, **limits)
        numbers = {name: i for i, name in SPECIAL.items()}
        hypotheses = [[numbers[t] if t in numbers else int(t) for t in r.hypotheses[0]]
                      for r in results]
        return hypotheses, [r.scores[0] for r in results]
