"""Seven programs like those that users report out-of-memory errors of, each run once.

usage: workloads.py WORKLOAD --mode MODE [--cap BYTES] [--seed N] [--scale F]

MODE is native, expandable (PyTorch's expandable segments), async (cudaMallocAsync), or balanced or lean
(Drystone with that ``reserve``). Prints one JSON line: whether it ended, its time, the peaks, and what it
computed: every loss, exactly, and a digest of every output.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS = {"native": "", "expandable": "expandable_segments:True", "async": "backend:cudaMallocAsync"}
DRYSTONE = {"balanced": "reserve:balanced", "lean": "reserve:lean"}
MODES = (*SETTINGS, *DRYSTONE)


class Run:
    """One run: its random numbers, how long it is, and what it computed."""

    def __init__(self, seed: int, scale: float) -> None:
        self.random = random.Random(seed)
        self.scale = scale
        self.losses: list[str] = []
        self.digest = hashlib.sha256()

    def times(self, count: int) -> int:
        """A number of steps, scaled."""
        return max(1, round(count * self.scale))

    def long_tail(self, least: int, most: int) -> int:
        """A length of which few are long, as in texts."""
        return min(most, int(least * self.random.paretovariate(1.3)))

    def loss(self, value: Tensor) -> None:
        """Notes a loss, bit for bit."""
        self.losses.append(value.item().hex())

    def output(self, value: Tensor) -> None:
        """Notes an output, which goes to the host as in a program that uses it."""
        self.digest.update(value.cpu().numpy().tobytes())


def ints(below: int, *shape: int) -> Tensor:
    """Random tokens on the GPU."""
    import torch

    return torch.randint(0, below, shape, device="cuda")


def tagging(run: Run) -> None:
    """Reviews as whole documents, sorted into batches by words: lengths with a long tail."""
    import torch
    from models import Tagger

    model = Tagger().cuda().eval()
    documents = [run.long_tail(40, 2500) for _ in range(run.times(1500))]
    batch: list[int] = []
    for length in [*documents, 0]:
        if length and max([*batch, length]) * (len(batch) + 1) < 5000 or not batch:
            batch.append(length)
            continue
        longest = max(batch)
        with torch.no_grad():
            words = ints(30000, len(batch), longest)
            letters = ints(300, len(batch), longest, run.random.randint(8, 18))
            for tags in model(words, letters):
                run.output(tags)
        batch = [length]


def spans(run: Run) -> None:
    """Finding entities: an encoder with relative places, then a score for every span of up to 12 words."""
    import torch
    import torch.nn.functional as F
    from models import RelativeEncoder
    from torch import nn

    encoder = RelativeEncoder(30000, 768, 12, 12, 3072, 256).cuda().eval()
    reader = nn.LSTM(768, 256, bidirectional=True, batch_first=True).cuda()
    starts, ends, out = nn.Linear(512, 512).cuda(), nn.Linear(512, 512).cuda(), nn.Linear(1024, 512).cuda()
    for _ in range(run.times(70)):
        batch, length = run.random.randint(4, 28), run.random.randint(40, 380)
        with torch.no_grad():
            x, _ = reader(encoder(ints(30000, batch, length)))
            at = torch.arange(length, device="cuda")[:, None] + torch.arange(12, device="cuda")
            at = at.clamp(max=length - 1).flatten()
            start = starts(x)[:, :, None].expand(-1, -1, 12, -1)
            span = torch.cat([start, ends(x)[:, at].view(batch, length, 12, -1)], -1)
            classes = torch.randn(run.random.randint(3, 25), 512, device="cuda")
            scores = torch.einsum("blwd,cd->blwc", F.relu(out(span)), classes)
            run.output((scores.sigmoid() > 0.5).nonzero())


def relations(run: Run) -> None:
    """Fine-tuning BERT-base on sentences of all lengths, with mixed precision and AdamW."""
    import torch
    import torch.nn.functional as F
    from models import Encoder
    from torch import nn

    model = Encoder(21128, 768, 12, 12, 3072).cuda().train()
    head = nn.Linear(2 * 768, 51).cuda()
    parameters = [*model.parameters(), *head.parameters()]
    optimizer, scaler = torch.optim.AdamW(parameters, 3e-5), torch.amp.GradScaler()
    for _ in range(run.times(70)):
        length = min(512, 16 + run.long_tail(60, 512))
        with torch.autocast("cuda", torch.float16):
            x = model(ints(21128, 32, length))
            scores = head(torch.cat([x[:, 0], x.amax(1)], -1))
            loss = F.cross_entropy(scores, ints(51, 32))
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        run.loss(loss)


def answers(run: Run) -> None:
    """Answering prompts with a decoder whose cache of keys and values grows by concatenation."""
    import torch
    from models import Decoder

    model = Decoder(32000, 1536, 14, 12, 2, 8960).to("cuda", torch.bfloat16).eval()
    left = run.times(689)
    with torch.no_grad():
        while left > 0:
            batch = min(left, 64)
            left -= batch
            tokens, past = ints(32000, batch, run.random.randint(64, 1500)), None
            for _ in range(run.random.randint(8, 32)):
                scores, past = model(tokens, past)
                tokens = scores[:, -1].argmax(-1, keepdim=True)
            run.output(tokens)
            del past, scores


def volumes(run: Run) -> None:
    """Segmenting volumes: patches of random shapes in training, a sliding window in validation."""
    import torch
    import torch.nn.functional as F
    import torch.utils.checkpoint
    from models import UNet

    model = UNet().cuda()
    optimizer, scaler = torch.optim.AdamW(model.parameters()), torch.amp.GradScaler()
    for step in range(run.times(40)):
        shape = [run.random.choice((64, 80, 96, 112, 128)) for _ in range(3)]
        batch = run.random.randint(1, 3)
        model.train()
        with torch.autocast("cuda", torch.float16):
            scores = model(torch.randn(batch, 1, *shape, device="cuda"))
            loss = F.cross_entropy(scores, ints(4, batch, *shape))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        run.loss(loss)
        if step % 10 == 9:
            model.eval()
            side = run.random.choice((192, 224, 256))
            whole = torch.zeros(4, side, side, side, device="cuda", dtype=torch.float16)
            with torch.no_grad(), torch.autocast("cuda", torch.float16):
                for at in range(0, side - 63, 64):
                    whole[:, at : at + 64] += model(torch.randn(1, 1, 64, side, side, device="cuda"))[0]
            run.output(whole.argmax(0))
            del whole


def pretraining(run: Run) -> None:
    """Pre-training BERT-large at length 512 over masked words, with gradients of four batches summed."""
    import torch
    import torch.nn.functional as F
    from models import Encoder
    from torch import nn

    model = Encoder(30522, 1024, 24, 16, 4096).cuda().train()
    head = nn.Linear(1024, 30522).cuda()
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-4, foreach=True)
    for step in range(run.times(24)):
        tokens = ints(30522, 12, 512)
        masked = torch.where(torch.rand(tokens.shape, device="cuda") < 0.15, tokens, -100)
        with torch.autocast("cuda", torch.bfloat16):
            scores = head(model(tokens))
            loss = F.cross_entropy(scores.flatten(0, 1).float(), masked.flatten())
        (loss / 4).backward()
        run.loss(loss)
        if step % 4 == 3:
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def prefetching(run: Run) -> None:
    """Training ResNet-50 on images of many sizes that come on one stream and are prepared on another."""
    import torch
    import torch.nn.functional as F
    from models import resnet50

    model = resnet50().cuda().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    copying, preparing = torch.cuda.Stream(), torch.cuda.Stream()

    def load() -> Tensor:
        batch, side = run.random.randint(24, 64), run.random.choice((160, 192, 224, 256, 288))
        pixels = torch.full((batch, 3, side, side), run.random.randrange(256), dtype=torch.uint8).pin_memory()
        with torch.cuda.stream(copying):
            images = pixels.to("cuda", non_blocking=True).float() / 255
        preparing.wait_stream(copying)
        with torch.cuda.stream(preparing):
            images.record_stream(preparing)
            factor = run.random.choice((0.75, 0.875, 1.0, 1.125))
            scaled = F.interpolate(images, scale_factor=factor)
            return scaled + torch.randn_like(scaled)

    following = load()
    for _ in range(run.times(60)):
        torch.cuda.current_stream().wait_stream(preparing)
        images = following
        images.record_stream(torch.cuda.current_stream())
        following = load()
        with torch.autocast("cuda", torch.bfloat16):
            scores = model(images.to(memory_format=torch.channels_last))
            loss = F.cross_entropy(scores.float(), ints(1000, images.shape[0]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        run.loss(loss)


WORKLOADS: dict[str, Callable[[Run], None]] = {
    workload.__name__: workload
    for workload in (tagging, spans, relations, answers, volumes, pretraining, prefetching)
}
PEAKS = ("requested_bytes", "allocated_bytes", "active_bytes", "reserved_bytes")
COUNTS = ("num_alloc_retries", "num_ooms", "num_device_alloc", "num_device_free", "allocation.all.allocated")
OWN = ("drystone.driver_ns", "drystone.driver_wait_ns", "drystone.driver_calls.map", "drystone.driver_calls.unmap")
"""What only Drystone counts."""


def once(workload: str, mode: str, cap: int | None, seed: int, scale: float) -> dict[str, object]:
    """Runs a workload in this process, which has used nothing of CUDA yet: its line."""
    if mode in DRYSTONE:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        import drystone

        drystone.install(DRYSTONE[mode], adapter=os.environ.get("DRYSTONE_ADAPTER", "full"))
    elif SETTINGS[mode]:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = SETTINGS[mode]
    # Sums in a fixed order: what two runs compute can be compared bit for bit.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.manual_seed(seed)
    if cap is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(cap / total)
    run = Run(seed, scale)
    line: dict[str, object] = {"workload": workload, "mode": mode, "seed": seed, "cap": cap, "ok": True}
    torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        WORKLOADS[workload](run)
    except torch.OutOfMemoryError as error:
        line |= {"ok": False, "error": str(error)[:500]}
    torch.cuda.synchronize()
    line["seconds"] = round(time.perf_counter() - start, 3)
    stats = torch.cuda.memory_stats()
    line |= {f"{name}_peak": stats.get(f"{name}.all.peak") for name in PEAKS}
    line |= {name: stats.get(name) for name in COUNTS}
    if mode in DRYSTONE:
        own = drystone.stats()
        line |= {name: own[name] for name in OWN}
    line |= {"losses": run.losses, "outputs": run.digest.hexdigest()[:16]}
    return line


def main() -> int:
    """Runs what the command line says."""
    parser = argparse.ArgumentParser(description="Runs a workload once; prints a JSON line.")
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--mode", choices=MODES, default="native")
    parser.add_argument("--cap", type=int, metavar="BYTES", help="the most that may be reserved")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the steps to run")
    options = parser.parse_args()
    line = once(options.workload, options.mode, options.cap, options.seed, options.scale)
    print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
