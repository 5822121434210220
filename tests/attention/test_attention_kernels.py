"""The names of kernels, what is missing for them, and how packages are called."""

import sys
import types

import pytest
import torch

from vidrl import attention
from vidrl.attention import kernels
from vidrl.attention.reference import written_out


def inputs(length=9, keys=13, width=8, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    sizes = ((2, 3, length, width), (2, 3, keys, width), (2, 3, keys, width))
    return [torch.randn(size, generator=draw).to(dtype) for size in sizes]


@pytest.mark.parametrize(("former", "plain"), kernels.FORMER.items())
def test_former_names_still_work(former, plain):
    assert attention.find(former) is attention.KERNELS[plain]


def test_all_other_names_of_diffusers_work_and_leave_its_default():
    from diffusers.models.attention_dispatch import AttentionBackendName
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before = registry._active_backend
    for item in AttentionBackendName:
        assert attention.find(item.value).name
    assert set(attention.names_of_diffusers()).isdisjoint(attention.KERNELS)
    with pytest.raises(RuntimeError, match="flash-attn"):
        attention.find("flash_varlen").call(*inputs(), None, False, None)
    assert registry._active_backend == before
    assert not attention.find("sage_hub").backward


def test_a_mistyped_name_is_answered_by_the_nearest():
    with pytest.raises(attention.AttentionError, match="'xformer'.*did you mean 'xformers'"):
        attention.find("xformer")


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("flash2", "flash_attn is not installed: pip install flash-attn"),
        ("flash3", "flash_attn_interface is not installed: build the folder hopper"),
        ("flash4", "flash_attn.cute is not installed: pip install flash-attn-4"),
        ("xformers", r"xformers is not installed: pip install .*xformers"),
        ("cudnn", "it needs a CUDA device, and this machine has none"),
    ],
)
def test_a_missing_kernel_is_named_with_its_cure(name, cure):
    if not attention.KERNELS[name].missing():
        pytest.skip(f"this machine has {name}")
    with pytest.raises(attention.AttentionError, match=cure):
        attention.check(name)


def test_the_switches_of_torch_are_restored_even_after_an_error():
    def state():
        order = torch._C._get_sdp_priority_order()
        enabled = [getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in
                   ("flash", "mem_efficient", "math", "cudnn")]  # fmt: skip
        return order, enabled

    before, (q, k, v) = state(), inputs()
    for name in ("math", "flash", "efficient", "cudnn"):
        torch.testing.assert_close(
            attention.KERNELS[name].call(q, k, v, None, False, None), written_out(q, k, v)
        )
        with pytest.raises(RuntimeError):
            attention.KERNELS[name].call(q, k[..., :3], v, None, False, None)
        assert state() == before


@pytest.mark.parametrize("kind", ["none", "boolean", "additive", "causal", "scaled"])
@pytest.mark.parametrize("name", ["math", "flex"])
def test_masks_and_scales_reach_the_kernel(name, kind):
    q, k, v = inputs(9, 9)
    seen = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    seen[1, ..., 6:] = False
    mask = {"boolean": seen, "additive": kernels.additive(seen, q.dtype)}.get(kind)
    causal, scale = kind == "causal", 0.2 if kind == "scaled" else None
    found = attention.KERNELS[name].call(q, k, v, mask, causal, scale)
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * (scale or 8**-0.5)
    if mask is not None:
        scores[1, ..., 6:] = -torch.inf
    if causal:
        scores = scores.masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -torch.inf)
    expected = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(written_out(q, k, v, mask, causal, scale), expected)


def test_the_reference_in_pieces_has_the_same_numbers_and_gradients(monkeypatch):
    from vidrl.attention import reference

    mask = torch.zeros(2, 1, 9, 13)
    mask[:, :, 4:, 10:] = -torch.inf
    results = []
    for piece in (2**26, 2 * 3 * 13 * 2):  # all queries at once, and two at a time
        monkeypatch.setattr(reference, "PIECE", piece)
        leaves = [x.requires_grad_() for x in inputs()]
        out = written_out(*leaves, mask)
        out.square().sum().backward()
        results.append([out.detach(), *(x.grad for x in leaves)])
    for whole, pieces in zip(*results, strict=True):
        torch.testing.assert_close(whole, pieces)


def test_a_query_whose_keys_are_all_hidden_gives_zeros_and_finite_gradients():
    q, k, v = (x.requires_grad_() for x in inputs())
    mask = torch.ones(2, 1, 9, 13, dtype=torch.bool)
    mask[0, 0, 3] = False
    out = written_out(q, k, v, mask)
    out.sum().backward()
    assert not out[0, :, 3].any() and all(x.grad.isfinite().all() for x in (q, k, v))


# --- packages, by stand-ins that check what they are given


@pytest.fixture
def package(monkeypatch):
    """Put a module with these functions in place of a package that is not installed."""

    def put(name, **functions):
        module = types.ModuleType(name)
        module.__dict__.update(functions)
        parent, _, child = name.rpartition(".")
        if parent:
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
            setattr(sys.modules[parent], child, module)
        monkeypatch.setitem(sys.modules, name, module)

    return put


def tokens_first(q, k, v, **options):
    """Attention of (B, tokens, heads, channels), as the packages have it."""
    return written_out(*(x.transpose(1, 2) for x in (q, k, v)), **options).transpose(1, 2)


@pytest.mark.parametrize(
    ("name", "module", "several"),
    [
        ("flash2", "flash_attn", False),
        ("flash3", "flash_attn_interface", False),
        ("flash4", "flash_attn.cute", True),
    ],
)
def test_flash_attention_is_called_as_its_packages_want(package, name, module, several):
    def flash_attn_func(q, k, v, softmax_scale=None, causal=False):
        assert all(x.is_contiguous() for x in (q, k, v))
        out = tokens_first(q, k, v, scale=softmax_scale, causal=causal)
        return (out, None) if several else out

    package(module, flash_attn_func=flash_attn_func)
    q, k, v = inputs(dtype=torch.bfloat16)
    found = attention.KERNELS[name].call(q, k, v, None, False, 0.3)
    torch.testing.assert_close(found, written_out(q, k, v, scale=0.3))


def test_xformers_is_called_with_an_aligned_bias(package):
    class LowerTriangularMask:
        pass

    def memory_efficient_attention(q, k, v, attn_bias=None, scale=None):
        causal = isinstance(attn_bias, LowerTriangularMask)
        if attn_bias is not None and not causal:
            assert attn_bias.shape == (2, 3, 9, 13) and attn_bias.dtype == q.dtype
            assert attn_bias.stride(-2) % 8 == 0 and attn_bias.stride(-1) == 1
        return tokens_first(q, k, v, mask=None if causal else attn_bias, causal=causal, scale=scale)

    names = {"LowerTriangularMask": LowerTriangularMask}
    package("xformers.ops", memory_efficient_attention=memory_efficient_attention, **names)
    q, k, v = inputs()
    seen = torch.ones(2, 1, 1, 13, dtype=torch.bool)
    seen[1, ..., 6:] = False
    call = attention.KERNELS["xformers"].call
    for mask in (None, seen, kernels.additive(seen, q.dtype)):
        torch.testing.assert_close(call(q, k, v, mask, False, None), written_out(q, k, v, mask))
    square = inputs(9, 9)
    torch.testing.assert_close(
        call(*square, None, True, None), written_out(*square, None, causal=True)
    )


def test_sage_is_called_with_the_heads_first(package):
    def sageattn(q, k, v, tensor_layout, is_causal, sm_scale):
        assert tensor_layout == "HND"
        return written_out(q, k, v, None, is_causal, sm_scale)

    package("sageattention", sageattn=sageattn)
    q, k, v = inputs()
    found = attention.KERNELS["sage"].call(q, k, v, None, False, None)
    torch.testing.assert_close(found, written_out(q, k, v))
