"""Two processes that share tensors; run by test_torch_sharing.py. The child changes what it was sent, and
sends a tensor of its own back."""

from __future__ import annotations

import sys

import drystone


def child(inbox: object, outbox: object) -> None:
    drystone.install(adapter="full")
    import torch

    received = inbox.get()
    for number, tensor in enumerate(received):
        assert tensor.is_cuda
        assert bool((tensor == number + 1).all()), number
        tensor.add_(10)
    torch.cuda.synchronize()
    own = torch.arange(3_000_000, device="cuda")
    outbox.put("changed")
    outbox.put(own)
    assert inbox.get() == "seen"
    # What was sent is let go of before the sender may free it.
    del received, tensor, own


def main() -> None:
    drystone.install(adapter="full")
    import torch
    import torch.multiprocessing as multiprocessing

    context = multiprocessing.get_context("spawn")
    inbox, outbox = context.Queue(), context.Queue()
    process = context.Process(target=child, args=(inbox, outbox))
    process.start()
    # A small block, one inside a larger tensor, and one of many handles.
    whole = torch.zeros(8 << 20, device="cuda")
    whole[100:200] = 2
    tensors = [
        torch.full((1000,), 1.0, device="cuda"),
        whole[100:200],
        torch.full((96 << 20,), 3.0, device="cuda"),
    ]
    torch.cuda.synchronize()
    inbox.put(tensors)
    assert outbox.get() == "changed"
    for number, tensor in enumerate(tensors):
        assert bool((tensor == number + 11).all()), number
    assert whole[99].item() == 0 and whole[200].item() == 0
    own = outbox.get()
    assert torch.equal(own, torch.arange(3_000_000, device="cuda"))
    del own
    torch.cuda.ipc_collect()
    inbox.put("seen")
    process.join(60)
    assert process.exitcode == 0, process.exitcode
    torch.cuda.ipc_collect()
    del tensors, tensor, whole
    torch.cuda.ipc_collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() == 0, torch.cuda.memory_allocated()
    print("shared")


if __name__ == "__main__":
    sys.exit(main())
