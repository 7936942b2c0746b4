"""The models of the workloads, in plain PyTorch with random weights: their shapes are those of the models
that users report out-of-memory errors for, so that nothing has to be downloaded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(batch, length, width) as (batch, heads, length, width of a head)."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """The other way round."""
    batch, heads, length, width = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * width)


class EncoderLayer(nn.Module):
    """A layer of BERT: attention and a feed-forward part, each with dropout and a norm behind it."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, inner), nn.Linear(inner, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_of(part(x), self.heads) for part in self.qkv)
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        x = self.norms[0](x + self.dropout(self.out(joined(seen))))
        return self.norms[1](x + self.dropout(self.down(F.gelu(self.up(x)))))


class Encoder(nn.Module):
    """BERT without its head; lengths up to 512."""

    def __init__(self, words: int, width: int, layers: int, heads: int, inner: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(512, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.1)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.norm(self.words(tokens) + self.places(places)))
        for layer in self.layers:
            x = layer(x)
        return x


class RelativeLayer(nn.Module):
    """A layer of DeBERTa: attention whose scores also depend on how far apart two words are, in buckets."""

    def __init__(self, width: int, heads: int, inner: int, buckets: int) -> None:
        super().__init__()
        self.heads, self.buckets = heads, buckets
        self.qkv = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, inner), nn.Linear(inner, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def bucket_of(self, length: int, device: torch.device) -> Tensor:
        """For each pair of places its bucket: exact when near, by magnitude when far."""
        at = torch.arange(length, device=device)
        apart = at[:, None] - at[None, :]
        half = self.buckets // 2
        far = half + torch.ceil(torch.log(apart.abs().clamp(min=half) / half) / 0.6931 * (half - 1) / 1.0)
        near = torch.where(apart.abs() < half, apart.abs(), far.long().clamp(max=self.buckets - 1))
        return (near * apart.sign() + self.buckets).clamp(0, 2 * self.buckets - 1)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        q, k, v = (heads_of(part(x), self.heads) for part in self.qkv)
        place_q, place_k = (heads_of(part(places[None]), self.heads) for part in self.qkv[:2])
        batch, heads, length, width = q.shape
        index = self.bucket_of(length, x.device).expand(batch, heads, length, length)
        scores = q @ k.transpose(-1, -2)
        scores = scores + torch.gather(q @ place_k.transpose(-1, -2), -1, index)
        scores = scores + torch.gather(k @ place_q.transpose(-1, -2), -1, index).transpose(-1, -2)
        seen = (scores / (3 * width) ** 0.5).softmax(-1) @ v
        x = self.norms[0](x + self.out(joined(seen)))
        return self.norms[1](x + self.down(F.gelu(self.up(x))))


class RelativeEncoder(nn.Module):
    """DeBERTa without its head."""

    def __init__(self, words: int, width: int, layers: int, heads: int, inner: int, buckets: int) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(words, width), nn.LayerNorm(width)
        self.places = nn.Embedding(2 * buckets, width)
        made = (RelativeLayer(width, heads, inner, buckets) for _ in range(layers))
        self.layers = nn.ModuleList(made)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.words(tokens))
        for layer in self.layers:
            x = layer(x, self.places.weight)
        return x


class DecoderLayer(nn.Module):
    """A layer of Qwen2: few heads for keys and values, rotated places, a gated feed-forward part."""

    def __init__(self, width: int, heads: int, groups: int, inner: int) -> None:
        super().__init__()
        self.heads, self.groups, head = heads, groups, width // heads
        self.q, self.out = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.k, self.v = nn.Linear(width, groups * head), nn.Linear(width, groups * head)
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.norms[0](x)
        q = rotated(heads_of(self.q(y), self.heads), turn)
        k = rotated(heads_of(self.k(y), self.groups), turn)
        v = heads_of(self.v(y), self.groups)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        each = self.heads // self.groups
        keys, values = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
        seen = F.scaled_dot_product_attention(q, keys, values, is_causal=past is None)
        x = x + self.out(joined(seen))
        y = self.norms[1](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), (k, v)


def rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turns each pair of features by an angle that depends on the place."""
    first, second = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-second, first], -1) * turn[1]


class Decoder(nn.Module):
    """Qwen2 with its head, for the last word only."""

    def __init__(self, words: int, width: int, layers: int, heads: int, groups: int, inner: int) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(words, width), nn.RMSNorm(width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, groups, inner) for _ in range(layers))
        self.head, self.half = nn.Linear(width, words, bias=False), width // heads // 2

    def forward(
        self, tokens: Tensor, past: list[tuple[Tensor, Tensor]] | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        before = past[0][0].shape[2] if past else 0
        at = torch.arange(before, before + tokens.shape[1], device=tokens.device)[:, None]
        speed = 1e6 ** -(torch.arange(self.half, device=tokens.device) / self.half)
        angle = torch.cat([at * speed] * 2, -1)
        x = self.words(tokens)
        turn = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        kept = []
        for number, layer in enumerate(self.layers):
            x, pair = layer(x, turn, past[number] if past else None)
            kept.append(pair)
        return self.head(self.norm(x[:, -1:])), kept


class Tagger(nn.Module):
    """A tagger over words and their letters: three bidirectional LSTM layers, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.letters = nn.Embedding(30000, 175), nn.Embedding(300, 100)
        self.spelling = nn.LSTM(100, 200, batch_first=True)
        self.reader = nn.LSTM(375, 400, num_layers=3, bidirectional=True, batch_first=True)
        self.hidden, self.coarse, self.fine = nn.Linear(800, 800), nn.Linear(800, 100), nn.Linear(800, 400)
        self.pair = nn.Bilinear(800, 100, 60)

    def forward(self, words: Tensor, letters: Tensor) -> tuple[Tensor, Tensor]:
        batch, length = words.shape
        spelt, _ = self.spelling(self.letters(letters.flatten(0, 1)))
        x = torch.cat([self.words(words), spelt[:, -1].view(batch, length, -1)], -1)
        x = F.relu(self.hidden(self.reader(x)[0]))
        coarse = self.pair(x.flatten(0, 1), self.coarse(x).flatten(0, 1))
        return coarse.argmax(-1), self.fine(x).argmax(-1)


def volume_block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions over a volume, each with a norm."""

    def one(inputs: int) -> list[nn.Module]:
        return [nn.Conv3d(inputs, outputs, 3, padding=1), nn.InstanceNorm3d(outputs), nn.LeakyReLU()]

    return nn.Sequential(*one(inputs), *one(outputs))


class UNet(nn.Module):
    """A U-Net over volumes with four levels, of which the two largest are computed again backwards."""

    def __init__(self) -> None:
        super().__init__()
        widths = [24, 48, 96, 192]
        self.down = nn.ModuleList(volume_block(*pair) for pair in zip([1, *widths], widths))
        falling = list(zip(widths[::-1], widths[-2::-1]))
        self.widen = nn.ModuleList(nn.ConvTranspose3d(wide, narrow, 2, 2) for wide, narrow in falling)
        self.up = nn.ModuleList(volume_block(2 * narrow, narrow) for _, narrow in falling)
        self.out = nn.Conv3d(widths[0], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level, block in enumerate(self.down):
            if self.training and level < 2:
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if level < 3:
                kept.append(x)
                x = F.max_pool3d(x, 2)
        for widen, block in zip(self.widen, self.up):
            x = block(torch.cat([widen(x), kept.pop()], 1))
        return self.out(x)


class Bottleneck(nn.Module):
    """A block of ResNet-50."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        sizes = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, 4 * inner, 1, 1)]
        self.steps = nn.ModuleList(convolution(*size) for size in sizes)
        same = stride == 1 and inputs == 4 * inner
        self.beside = nn.Identity() if same else convolution(inputs, 4 * inner, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for step in self.steps[:-1]:
            y = F.relu(step(y), inplace=True)
        return F.relu(self.steps[-1](y) + self.beside(x), inplace=True)


def convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    """A convolution over images with its norm."""
    made = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(made, nn.BatchNorm2d(outputs))


def resnet50() -> nn.Sequential:
    """ResNet-50 with its head for 1000 classes."""
    parts: list[nn.Module] = [convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for inner, count, stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for number in range(count):
            parts.append(Bottleneck(inputs, inner, stride if number == 0 else 1))
            inputs = 4 * inner
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))
