"""The passes of `Passes`, for one GPU that only answers: compiled layers, CUDA graphs, and SAM 2 beside the language
model.

Small batches wait for Python, which starts some 5,000 kernels for an answer; large ones for memory, which each
elementwise step reads and writes again. A graph starts all its kernels at once; a compiled layer joins its elementwise
steps. Layers are compiled one by one: those of a kind share one compilation, and any batch size is served by it.

No answer waits for a compilation: whatever shape was not seen in the warm-up takes the plain path.

Shapes: as in `Passes`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sa2va_ray.models.compiler import set_up_compiler
from sa2va_ray.models.sa2va.grounding_sam2 import normalize_grounding_images
from sa2va_ray.models.sa2va.modeling_sa2va import NO_MASK, Sa2VAModel
from sa2va_ray.models.sa2va.passes_sa2va import Passes

_CHUNK = 4
"""Images or objects that SAM 2 sees at once where there are so many, else one by one: two shapes to compile for. Four
images fill an H200: 29 ms, and 16 at once take 107."""
_BUCKET = 64
_GRAPH_TOKENS = 512
"""Prompts of up to so many tokens have a graph for each multiple of `_BUCKET`: an image of one tile has 256, and a
longer prompt keeps the GPU busy without one."""

Encoded = tuple[Tensor, Tensor, Tensor]


class CompiledPasses(Passes):
    """Of a model in evaluation mode, whose weights do not move any more. For one thread."""

    encodes_ahead = True

    def __init__(self, model: Sa2VAModel):
        """Compiles what the node's cache does not hold, which takes a minute or two; else some 15 s."""
        super().__init__(model)
        if model.is_causal_throughout:
            self.prefill = self._prefill
        self._compile_layers()
        # The language model goes first, and SAM 2 fills the gaps: what the model says is then known, and the next batch
        # can be started, while SAM 2 is still at work on this one.
        self._main, self._side = _stream(model.device, priority=-1), _stream(model.device, priority=0)
        self._graphs: dict[tuple, _Graph] = {}
        with torch.no_grad(), torch.cuda.stream(self._main):
            self._warm_up()

    @contextmanager
    def answering(self) -> Iterator[None]:
        with torch.compiler.set_stance("eager_on_recompile"), torch.cuda.stream(self._main):
            yield

    def encode_tiles(self, tiles: Tensor) -> Tensor:
        return self._run("tiles", self.model.encode_tiles, tiles)

    def encode_images(self, pixels: Tensor) -> Encoded:
        if self._side is None:
            return self._encode_images(pixels)
        self._side.wait_stream(torch.cuda.current_stream())
        pixels.record_stream(self._side)
        with torch.cuda.stream(self._side):
            return self._encode_images(pixels)

    def decode_masks(self, encoded: Encoded, seg_states: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)
        parts = [
            self._run("masks", self._decode, *[each[image_index[chunk]] for each in encoded], seg_states[chunk])
            for chunk in _chunks(len(seg_states))
        ]
        logits, ious = zip(*parts, strict=True)
        return torch.cat(logits), torch.cat(ious)

    def _encode_images(self, pixels: Tensor) -> Encoded:
        normal = normalize_grounding_images(pixels, self.model.dtype, constants_dtype=torch.bfloat16)
        parts = [self._run("images", self._encode, normal[chunk]) for chunk in _chunks(len(pixels))]
        fine, middle, coarse = zip(*parts, strict=True)
        return torch.cat(fine), torch.cat(middle), torch.cat(coarse)

    def _prefill(self, embeds: Tensor) -> Tensor:
        length = embeds.shape[1]
        if len(embeds) > 1 or length > _GRAPH_TOKENS:
            return self._hidden_states(embeds)
        padded = nn.functional.pad(embeds, (0, 0, 0, -length % _BUCKET))
        return self._run("prompt", self._hidden_states, padded)[:, :length]

    def _hidden_states(self, embeds: Tensor) -> Tensor:
        positions = torch.arange(embeds.shape[1], device=embeds.device).unsqueeze(0)
        return self.model.language_model.model(
            inputs_embeds=embeds, attention_mask=NO_MASK, position_ids=positions, use_cache=False
        ).last_hidden_state

    def _encode(self, pixel_values: Tensor) -> Encoded:
        return self.model.grounding_encoder.encode(pixel_values)

    def _decode(self, fine: Tensor, middle: Tensor, coarse: Tensor, seg_states: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.grounding_encoder.decode(fine, middle, coarse, self.model.text_hidden_fcs(seg_states))

    def _run(self, name: str, function: Callable, *inputs: Tensor):
        graph = self._graphs.get((name, inputs[0].shape))
        return graph(*inputs) if graph else function(*inputs)

    def _compile_layers(self) -> None:
        set_up_compiler()
        encoder = self.model.grounding_encoder.sam2_model.image_encoder
        for layer in [*self.model.language_model.model.layers, *self.model.vision_model.encoder.layer]:
            layer.compile(dynamic=True)
        for block in [*encoder.trunk.blocks, encoder.neck]:
            block.compile(dynamic=False)

    def _warm_up(self) -> None:
        """Compiles for one and for several of everything, and captures what is small."""
        for tiles in (1, 2, 3):
            self.model.encode_tiles(self._zeros(tiles, 3, *2 * [self.model.config.tile_size]))
        prompts = [self._zeros(1, length, self.model.config.hidden_size) for length in _graph_lengths()]
        if self.prefill:
            several = [self._zeros(rows, 300 + rows, self.model.config.hidden_size) for rows in (2, 3)]
            for prompt in [*prompts[:2], *several]:
                self._hidden_states(prompt)
        side = self.model.config.grounding_size
        images = [self._zeros(number, 3, side, side) for number in (_CHUNK, 1)]
        objects = [(*self._encode(each), self._zeros(len(each), self.model.config.hidden_size)) for each in images]
        for each in objects:
            self._decode(*each)
        if self._side is None:
            return
        self._capture("tiles", self.model.encode_tiles, self._zeros(1, 3, *2 * [self.model.config.tile_size]).float())
        for prompt in prompts if self.prefill else ():
            self._capture("prompt", self._hidden_states, prompt)
        for pixels, seen in zip(images, objects, strict=True):
            with torch.cuda.stream(self._side):
                self._capture("images", self._encode, pixels)
            self._capture("masks", self._decode, *seen)

    def _capture(self, name: str, function: Callable, *inputs: Tensor) -> None:
        self._graphs[name, inputs[0].shape] = _Graph(function, inputs)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)


class _Graph:
    """A function of tensors of fixed shapes, whose kernels start in one go, with the priority of the stream in which
    it was captured."""

    def __init__(self, function: Callable, inputs: tuple[Tensor, ...]):
        self._inputs = [each.clone() for each in inputs]
        function(*self._inputs)  # whatever is set up in a first call
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream()):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor):
        """Copies of the outputs, since the next call overwrites them."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        if isinstance(self._outputs, Tensor):
            return self._outputs.clone()
        return tuple(each.clone() for each in self._outputs)


def _stream(device: torch.device, priority: int) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device, priority=priority) if device.type == "cuda" else None


def _chunks(number: int) -> Iterator[slice]:
    """`_CHUNK` at once as long as there are so many, then one by one."""
    whole = number - number % _CHUNK
    yield from (slice(begin, begin + _CHUNK) for begin in range(0, whole, _CHUNK))
    yield from (slice(begin, begin + 1) for begin in range(whole, number))


def _graph_lengths() -> range:
    return range(_BUCKET, _GRAPH_TOKENS + 1, _BUCKET)
