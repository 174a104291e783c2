import pytest
import torch
from torch import nn

from benchmarks.predict import build
from sa2va_ray.models.config import TrainableConfig
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.parts import LANGUAGE_MODEL
from sa2va_ray.train.engine.layers import compile_layers, cut_large_batches, layers, piece_size, run_in_pieces


@pytest.mark.parametrize(("micro_batch_size", "size"), [(1, 1), (4, 4), (8, 8), (9, 5), (11, 6), (16, 8), (32, 8)])
def test_a_full_micro_batch_is_cut_into_equal_pieces(micro_batch_size, size):
    assert piece_size(micro_batch_size, 8) == size


@pytest.mark.parametrize(
    ("image_size", "micro_batch_size", "sizes"), [(1024, 63, [63]), (1024, 64, [32, 32]), (2048, 16, [8, 8])]
)
def test_no_batch_has_more_windows_than_a_gpu_counts(image_size, micro_batch_size, sizes):
    model, _ = build("tiny", "cpu")
    model.config.grounding_config["image_size"] = image_size
    trunk, seen = model.grounding_encoder.sam2_model.image_encoder.trunk, []
    assert list(trunk.window_spec) == [8, 4, 16, 8]
    trunk.forward = lambda images: seen.append(len(images)) or [images]
    cut_large_batches(model, micro_batch_size)
    trunk(torch.zeros(micro_batch_size, 1))
    assert seen == sizes


@pytest.mark.parametrize("num_images", [1, 3, 4, 7])
@pytest.mark.parametrize("fill_up", [True, False])
def test_images_in_pieces_give_the_same_outputs_and_gradients(num_images, fill_up):
    torch.manual_seed(0)
    layer, sizes = nn.Conv2d(3, 2, 3), []

    def trunk(images):
        sizes.append(len(images))
        fine = layer(images).tanh()
        return [fine, fine.mean(dim=(2, 3)) + 1]

    images = torch.randn(num_images, 3, 8, 8)
    expected, outputs = trunk(images), run_in_pieces(trunk, 3, images, fill_up)
    assert set(sizes[1:]) == {3} if fill_up else sum(sizes[1:]) == num_images
    torch.testing.assert_close(outputs, expected)
    expected_gradient, gradient = (
        torch.autograd.grad(sum(level.square().sum() for level in levels), layer.weight)[0]
        for levels in (expected, outputs)
    )
    torch.testing.assert_close(gradient, expected_gradient)


def test_a_layers_own_numbers_are_no_inputs_of_its_compiled_code(monkeypatch):
    """Each would be a tensor on the CPU beside those of the GPU."""
    torch._dynamo.reset()
    inputs, plain = [], torch.compile

    def backend(graph, _):
        inputs.extend(node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder")
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **options: plain(function, backend=backend, **options))
    model, processor = build("tiny", "cpu")
    make_trainable(model, processor, TrainableConfig(lora_dropout=0.1))
    compile_layers(model.train(), "zero2", micro_batch_size=1)
    hidden = torch.randn(2, 5, model.config.hidden_size)
    position_embeddings = model.language_model.model.rotary_emb(hidden, torch.arange(5)[None])
    for layer in layers(model, LANGUAGE_MODEL):
        layer(hidden, attention_mask=None, position_embeddings=position_embeddings)
    assert inputs
    assert not [each for each in inputs if isinstance(each, torch.Tensor) and each.ndim == 0]


def test_each_kind_of_sam_2s_layers_is_compiled_for_its_own_sizes(monkeypatch):
    torch._dynamo.reset()
    graphs, plain = [], torch.compile

    def backend(graph, _):
        graphs.append([node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"])
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **options: plain(function, backend=backend, **options))
    model, processor = build("tiny", "cpu")
    make_trainable(model, processor, TrainableConfig())
    compile_layers(model.train(), "zero2", micro_batch_size=2)
    trunk, side = model.grounding_encoder.sam2_model.image_encoder.trunk, model.config.grounding_size
    for num_images in (2, 1):
        trunk(torch.randn(num_images, 3, side, side))
    assert 2 <= len(graphs) <= len(trunk.blocks)
    sizes = [
        size
        for values in graphs
        for each in values
        for size in (each.shape if isinstance(each, torch.Tensor) else [each])
    ]
    assert [size for size in sizes if isinstance(size, torch.SymInt)] == []
