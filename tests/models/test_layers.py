"""What the towers are made of: attention, activation and patches, against the plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.layers import ProductAttention, QuickGELU, attention

SMALL = CLIPConfig(embed_dim=16, image_size=24, patch_size=8, vision_width=64, vision_layers=1,
                   text_width=32, text_layers=1, vocab_size=64)


def random_inputs(dtype, keys=7):
    torch.manual_seed(0)
    shapes = [(3, 2, 5, 8), (3, 2, keys, 8), (3, 2, keys, 8)]
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def test_written_out_backward_is_that_of_attention():
    q, k, v = random_inputs(torch.float64)
    assert torch.autograd.gradcheck(ProductAttention.apply, (q, k, v))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_on_the_cpu_takes_the_products(dtype):
    inputs = random_inputs(dtype)
    out = attention(*inputs)
    assert "ProductAttention" in type(out.grad_fn).__name__
    exact = [x.detach().double().requires_grad_() for x in inputs]
    wanted = F.scaled_dot_product_attention(*exact)
    torch.testing.assert_close(out.double(), wanted, atol=0.02, rtol=0.02)
    grad = torch.randn(out.shape)
    found = torch.autograd.grad(out, inputs, grad.to(dtype))
    for ours, theirs in zip(found, torch.autograd.grad(wanted, exact, grad.double()), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, atol=0.04, rtol=0.04)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_attention_sees_no_later_key(dtype):
    q, k, v = random_inputs(dtype, keys=5)
    out = attention(q, k, v, causal=True)
    changed = v.detach().clone()
    changed[:, :, 3:] = 0
    assert torch.equal(attention(q, k, changed, causal=True)[:, :, :3], out[:, :, :3])
    assert not torch.equal(attention(q, k, changed)[:, :, :3], attention(q, k, v)[:, :, :3])


def test_quick_gelu_is_its_formula():
    x = torch.linspace(-6, 6, 50, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(QuickGELU()(x), x * torch.sigmoid(1.702 * x))
    assert torch.autograd.gradcheck(QuickGELU(), x)


def test_patches_are_those_of_the_convolution():
    torch.manual_seed(0)
    visual = CLIP(SMALL).visual.double()
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    wanted = visual.conv1(images).flatten(2).transpose(1, 2)
    found = visual.embed_patches(images)
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(x.square().sum(), visual.conv1.weight)[0] for x in (found, wanted)]
    torch.testing.assert_close(*grads)
