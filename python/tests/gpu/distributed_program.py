"""DistributedDataParallel and FSDP over NCCL on two GPUs; run by test_torch_devices.py under torchrun. The
losses are printed, so that they can be compared with those of torch's own allocator."""

from __future__ import annotations

import os
import sys


def main(way: str, allocator: str) -> None:
    rank = int(os.environ["LOCAL_RANK"])
    if allocator == "drystone":
        import drystone

        drystone.install(adapter="full")
    import torch
    import torch.distributed as distributed

    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(512, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 512)]
    model = torch.nn.Sequential(*layers).cuda()
    if way == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])
    else:
        from torch.distributed.fsdp import fully_shard

        for layer in model:
            if list(layer.parameters()):
                fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    generator = torch.Generator("cuda").manual_seed(rank)
    for step in range(20):
        batch = torch.randn(64 + 16 * (step % 5), 512, device="cuda", generator=generator)
        loss = model(batch).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        distributed.all_reduce(total)
        if rank == 0:
            print(f"loss {total.item():.9e}", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
