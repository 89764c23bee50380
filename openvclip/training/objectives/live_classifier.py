"""A classifier that the text tower makes anew at every step, with exact gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from openvclip.models.backbone import Backbone
from openvclip.models.video_clip import VideoCLIP
from openvclip.utils import distributed


class ClassTexts(NamedTuple):
    """Texts that stand for classes.

    Attributes:
        tokens: int64 (N, columns) token ids.
        classes: int64 (N,), the class of each text.
    """

    tokens: Tensor
    classes: Tensor


def tokenize_classes(
    clip: Backbone, texts: Sequence[Sequence[str]], context_length: int, truncate: bool = False
) -> ClassTexts:
    """Return the token ids of each class's texts, class after class.

    Raises:
        DataError: a text is longer than ``context_length``, and ``truncate`` is off.
    """
    counts = torch.tensor([len(own) for own in texts])
    tokens = clip.tokenize([text for own in texts for text in own], context_length,
                           truncate=truncate)
    return ClassTexts(tokens, torch.arange(len(texts)).repeat_interleave(counts))


class LiveClassifier:
    """Makes the class embeddings of a pass, and carries their gradient into the text tower.

    A class embedding is the mean of the unit embeddings of its texts, normalised. Each process
    encodes its share of the texts; the sums over texts are added up, so that all have all classes.
    The embeddings are a leaf, ``model.live_classifier``: a batch that comes in parts collects its
    gradient there, whose sum over the processes is then carried through each process's own texts.
    A share of more than ``chunk`` texts is encoded twice, without a gradient and again chunk by
    chunk (Gao et al. 2021, arXiv 2101.06983), so memory holds one chunk's activations.

    :meth:`start` goes into an objective's ``begin`` and :meth:`finish` into its ``complete``.

    Args:
        model: the model that trains; its text tower has trained parameters.
        texts: of all classes; each class has one at least.
        chunk: most texts whose activations are held.
        autocast: makes the context of the text tower's forward pass.
        encode: int64 (n, columns) -> (n, D) unit embeddings; None: the model's
            ``encode_classes``.
    """

    def __init__(
        self, model: VideoCLIP, texts: ClassTexts, chunk: int = 256,
        autocast: Callable = nullcontext, encode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model, self.texts, self.chunk, self.autocast = model, texts, chunk, autocast
        self.encode = encode or model.encode_classes
        self.num_classes = int(texts.classes.max()) + 1
        self._columns = model.model.count_columns(texts.tokens)
        self._share = slice(distributed.rank(), None, distributed.world_size())
        self._chunks: tuple[Tensor, ...] = ()
        self._counts = torch.empty(0)
        self._kept: Tensor | None = None
        self._means: Tensor | None = None
        self._embeddings: Tensor | None = None

    def start(self, rows: Tensor | None = None) -> Tensor:
        """Make the class embeddings at the weights that the model holds, and let it use them.

        Args:
            rows: int64, the texts to use, the same in all processes and at least one of each
                class; None: all.

        Returns:
            (C, D) unit embeddings, a leaf: ``model.live_classifier``.
        """
        rows = torch.arange(len(self._columns)) if rows is None else rows
        # Texts of similar length together, so that short ones do not take many columns.
        rows = rows[self._columns[rows].argsort(stable=True)]
        self._counts = torch.bincount(self.texts.classes[rows], minlength=self.num_classes)
        self._chunks = rows[self._share].split(self.chunk)
        whole = len(self._chunks) == 1
        with torch.set_grad_enabled(whole):
            sums = [self._sum(own) for own in self._chunks]
        self._kept = sums[0] if whole else None
        means = torch.stack([own.detach() for own in sums]).sum(dim=0)
        if distributed.world_size() > 1:
            dist.all_reduce(means)
        with torch.enable_grad():
            self._means = means.requires_grad_()
            self._embeddings = F.normalize(self._means, dim=-1)
        self.model.live_classifier = self._embeddings.detach().requires_grad_()
        return self.model.live_classifier

    def finish(self, total: Tensor) -> Tensor:
        """Return what to add to ``total``, that the texts get their gradient from its backward.

        See :meth:`Objective.complete <openvclip.training.objectives.objective.Objective.complete>`.
        The gradients of all chunks but the last are on the parameters by then.
        """
        leaf = self.model.live_classifier
        embeddings, means = self._embeddings, self._means
        assert leaf is not None and embeddings is not None and means is not None  # after start
        gradient, = torch.autograd.grad(total, leaf, retain_graph=True)
        if leaf.grad is not None:  # of the batch's earlier parts
            gradient = gradient + leaf.grad
        if distributed.world_size() > 1:
            # The loss is the mean over the processes, and so will be the gradients: that of the
            # mean at these texts, times the number of processes, is the sum.
            gradient = gradient.contiguous()
            dist.all_reduce(gradient)
        at_means, = torch.autograd.grad(embeddings, means, gradient)
        for own in self._chunks[:-1]:
            self._add_gradients(own, at_means)
        last = self._sum(self._chunks[-1]) if self._kept is None else self._kept
        self.stop()
        return (last * at_means).sum()

    def stop(self) -> None:
        """Let go of the embeddings; the model classifies by ``classifier`` again."""
        self.model.live_classifier = None
        self._kept = self._means = self._embeddings = None

    def _sum(self, rows: Tensor) -> Tensor:
        """(C, D): the sum over the texts of each class, divided by how many all processes have."""
        device = self.model.model.logit_scale.device
        # A process without texts encodes one that counts as none: DistributedDataParallel demands
        # a gradient of every parameter.
        encoded = rows if len(rows) else torch.zeros(1, dtype=torch.int64)
        with self.autocast():
            features = self.encode(self.texts.tokens[encoded].to(device))
        # As a product, whose order of summation is fixed on every device.
        owned = self.texts.classes[encoded] == torch.arange(self.num_classes)[:, None]
        owned &= bool(len(rows))
        weights = (owned / self._counts.double()[:, None]).to(device, features.dtype)
        return weights @ features

    def _add_gradients(self, rows: Tensor, at_means: Tensor) -> None:
        # Not by backward(), which DistributedDataParallel would take for the one to exchange.
        parameters = [p for p in self.model.model.text_parameters().values() if p.requires_grad]
        with torch.enable_grad():
            surrogate = (self._sum(rows) * at_means).sum()
        gradients = torch.autograd.grad(surrogate, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
