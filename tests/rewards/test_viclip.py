"""ViCLIP against the arithmetic of its published code, written here from the functions of
torch alone."""

import pytest
import torch
from torch.nn import functional as f

pytest.importorskip("transformers")

from vidrl.rewards._networks import viclip

WIDTH, NARROW, OUT, LAYERS, PATCH, GRID, FRAMES, WORDS, LONGEST = 128, 64, 24, 2, 4, 3, 8, 50, 10


def published_state():
    """Random weights under the names of OpenGVLab/ViCLIP's file: numbers that float32
    holds, in float64."""
    draw = torch.Generator().manual_seed(0)

    def tensor(*shape):
        return (torch.randn(*shape, generator=draw) / shape[-1] ** 0.5).double()

    def tower(start, width):
        state = {}
        for layer in range(LAYERS):
            at = f"{start}transformer.resblocks.{layer}."
            state |= {
                f"{at}attn.in_proj_weight": tensor(3 * width, width),
                f"{at}attn.in_proj_bias": tensor(3 * width),
                f"{at}attn.out_proj.weight": tensor(width, width),
                f"{at}attn.out_proj.bias": tensor(width),
                f"{at}mlp.c_fc.weight": tensor(4 * width, width),
                f"{at}mlp.c_fc.bias": tensor(4 * width),
                f"{at}mlp.c_proj.weight": tensor(width, 4 * width),
                f"{at}mlp.c_proj.bias": tensor(width),
            }
            for norm in ("ln_1", "ln_2"):
                state |= {f"{at}{norm}.weight": tensor(width), f"{at}{norm}.bias": tensor(width)}
        return state

    see, read = "vision_encoder.", "text_encoder."
    state = tower(see, WIDTH) | tower(read, NARROW)
    state |= {
        f"{see}conv1.weight": tensor(WIDTH, 3, 1, PATCH, PATCH),
        f"{see}class_embedding": tensor(WIDTH),
        f"{see}positional_embedding": tensor(GRID**2 + 1, WIDTH),
        f"{see}proj": tensor(WIDTH, OUT),
        f"{see}temporal_positional_embedding": tensor(1, FRAMES, WIDTH),
    }
    for norm, width in (
        (f"{see}ln_pre", WIDTH),
        (f"{see}ln_post", WIDTH),
        (f"{read}ln_final", NARROW),
    ):
        state |= {f"{norm}.weight": tensor(width), f"{norm}.bias": tensor(width)}
    return state | {
        f"{read}token_embedding.weight": tensor(WORDS, NARROW),
        "temp": torch.tensor(0.01),
        f"{read}positional_embedding": tensor(LONGEST, NARROW),
        f"{read}text_projection": tensor(NARROW, OUT),
    }


def norm(x, state, name):
    return f.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def reference_blocks(x, state, start, mask=None):
    """(N, L, E): x + attention(ln_1 x), then x + mlp(ln_2 x) with x sigmoid(1.702 x); heads
    are 64 wide."""
    for layer in range(LAYERS):
        at = f"{start}transformer.resblocks.{layer}."
        mixed = (
            norm(x, state, f"{at}ln_1") @ state[f"{at}attn.in_proj_weight"].T
            + state[f"{at}attn.in_proj_bias"]
        )
        q, k, v = (part.unflatten(-1, (-1, 64)).transpose(1, 2) for part in mixed.chunk(3, -1))
        weights = q @ k.transpose(-1, -2) / 8
        weights = weights if mask is None else weights + mask
        heard = (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + heard @ state[f"{at}attn.out_proj.weight"].T + state[f"{at}attn.out_proj.bias"]
        inner = (
            norm(x, state, f"{at}ln_2") @ state[f"{at}mlp.c_fc.weight"].T
            + state[f"{at}mlp.c_fc.bias"]
        )
        inner = inner * (1.702 * inner).sigmoid()
        x = x + inner @ state[f"{at}mlp.c_proj.weight"].T + state[f"{at}mlp.c_proj.bias"]
    return x


def reference_video(video, state):
    """Compute the video tower by a loop over frames and cells, for its class token."""
    see, found = "vision_encoder.", []
    for clip in video:
        tokens = [state[f"{see}class_embedding"] + state[f"{see}positional_embedding"][0]]
        for cell in range(GRID**2):
            top, left = PATCH * (cell // GRID), PATCH * (cell % GRID)
            for t, frame in enumerate(clip):
                cut = frame[:, top : top + PATCH, left : left + PATCH]
                patch = (state[f"{see}conv1.weight"][:, :, 0] * cut).sum((1, 2, 3))
                when = state[f"{see}temporal_positional_embedding"][0, t]
                tokens.append(patch + state[f"{see}positional_embedding"][1 + cell] + when)
        x = reference_blocks(norm(torch.stack(tokens)[None], state, f"{see}ln_pre"), state, see)
        found.append(norm(x[0, 0], state, f"{see}ln_post") @ state[f"{see}proj"])
    return torch.stack(found)


def reference_text(ids, state):
    read = "text_encoder."
    x = state[f"{read}token_embedding.weight"][ids] + state[f"{read}positional_embedding"]
    mask = torch.full((LONGEST, LONGEST), float("-inf"), dtype=torch.float64).triu(1)
    x = norm(reference_blocks(x, state, read, mask), state, f"{read}ln_final")
    return (
        torch.stack([row[one.argmax()] for row, one in zip(x, ids)])
        @ state[f"{read}text_projection"]
    )


def test_both_towers_have_the_published_arithmetic():
    state = published_state()
    model = viclip.build_network(state).double().eval()
    video = torch.rand(
        2, FRAMES, 3, PATCH * GRID, PATCH * GRID, generator=torch.Generator().manual_seed(1)
    ).double()
    ids = torch.tensor([[48, 3, 5, 49, 0, 0, 0, 0, 0, 0], [48, 7, 7, 7, 7, 7, 7, 7, 7, 49]])
    with torch.no_grad():
        torch.testing.assert_close(
            model.video(video), reference_video(video, state), atol=1e-10, rtol=1e-10
        )
        torch.testing.assert_close(
            model.text(ids), reference_text(ids, state), atol=1e-10, rtol=1e-10
        )


def test_frames_in_another_order_give_another_feature():
    pair, video = (
        viclip.tiny(),
        torch.rand(1, 8, 3, 32, 32, generator=torch.Generator().manual_seed(2)),
    )
    assert not torch.allclose(pair.clips(video), pair.clips(video.flip(1)), atol=1e-4)


def test_features_have_length_one_and_follow_the_precision_of_the_clip():
    pair, video = viclip.tiny(), torch.rand(2, 8, 3, 32, 32, dtype=torch.float64)
    seen, read = pair.clips(video), pair.texts(["a red ball", "two dogs"], video)
    assert seen.dtype == read.dtype == torch.float64
    torch.testing.assert_close(
        torch.cat([seen, read]).norm(dim=1), torch.ones(4, dtype=torch.float64)
    )


def test_prompts_are_cleaned_cut_and_independent_of_their_neighbours():
    pair, like = viclip.tiny(), torch.rand(1)
    texts = pair.texts(
        ["“a dog” &amp; a  cat", '"a dog" & a cat', "x" * 200, "x" * 31, "x" * 30], like
    )
    torch.testing.assert_close(texts[0], texts[1])
    # both are the start, 30 letters within a word, and the end
    torch.testing.assert_close(texts[2], texts[3])
    assert not torch.allclose(texts[3], texts[4])  # the letter that ends a word is another token
    torch.testing.assert_close(
        pair.texts(["two dogs", "a much longer prompt"], like)[:1], pair.texts(["two dogs"], like)
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("vision_encoder.proj"),
        lambda state: state.pop("text_encoder.ln_final.bias"),
        lambda state: state.update({"head.weight": torch.zeros(2)}),
        lambda state: state.clear(),
    ],
)
def test_other_weights_are_refused_by_name(spoil):
    state = published_state()
    spoil(state)
    with pytest.raises(ValueError, match="expected the weights of a ViCLIP"):
        viclip.build_network(state)


def test_clips_of_another_size_are_refused():
    with pytest.raises(
        ValueError, match=r"expected clips \(N, 8, 3, 32, 32\), got \(1, 4, 3, 32, 32\)"
    ):
        viclip.tiny().clips(torch.rand(1, 4, 3, 32, 32))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_published_file_is_read_without_unpickling(suffix, tmp_path):
    from safetensors.torch import save_file

    state = {name: value.float() for name, value in published_state().items()}
    path = tmp_path / f"viclip{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state}, path)
    pair = viclip.load(str(path))
    video = torch.rand(1, FRAMES, 3, PATCH * GRID, PATCH * GRID)
    expected = f.normalize(reference_video(video.double(), published_state()), dim=-1)
    torch.testing.assert_close(pair.clips(video).double(), expected, atol=1e-4, rtol=1e-4)
