"""CuPy out of Drystone on a real GPU, alone and beside PyTorch."""

from __future__ import annotations

from library_tools import on_gpu

SPIN = '''
import cupy
late_copy = cupy.RawKernel(r"""
extern "C" __global__ void late_copy(const float *from, float *to, int n, long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) {}
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = from[i];
}""", "late_copy")
LONG = 30_000_000
COUNT = 1 << 20
def copy(stream, source, target):
    with stream:
        late_copy((COUNT // 256,), (256,), (source, target, cupy.int32(COUNT), cupy.int64(LONG)))
'''


def test_arrays() -> None:
    on_gpu(
        """
        import cupy, drystone, drystone.cupy
        drystone.cupy.install()
        live = lambda: drystone.stats(0)["allocated_bytes.all.current"]
        before = live()
        a = cupy.arange(1_000_000, dtype=cupy.float64)
        assert live() >= before + 8_000_000
        assert int((a * 2).sum()) == 999_999 * 1_000_000
        address = a.data.ptr
        del a
        b = cupy.zeros(1_000_000)
        assert b.data.ptr == address, "memory of the same stream is used again"
        assert cupy.empty(0).size == 0
        c = cupy.random.rand(500, 500)
        assert cupy.allclose(cupy.linalg.inv(c) @ c, cupy.eye(500), atol=1e-6)
        drystone.cupy.uninstall()
        d = cupy.ones(10)
        del b, c
        assert float(d.sum()) == 10
        """,
        "cupy",
    )


def test_an_array_goes_in_the_order_of_its_stream() -> None:
    on_gpu(
        SPIN
        + """
import drystone.cupy
drystone.cupy.install()
stream, other = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
for recorded in (False, True):
    with stream:
        source = cupy.full(COUNT, 1, dtype=cupy.float32)
        target = cupy.zeros(COUNT, dtype=cupy.float32)
    stream.synchronize()
    copy(other if recorded else stream, source, target)
    address = source.data.ptr
    if recorded:
        drystone.cupy.record_stream(source, other)
    del source
    with stream:
        again = cupy.full(COUNT, 2, dtype=cupy.float32)
    assert (again.data.ptr != address) == recorded
    cupy.cuda.Device().synchronize()
    assert bool((target == 1).all()) and bool((again == 2).all())
""",
        "cupy",
    )


def test_streams_come_and_go() -> None:
    on_gpu(
        """
        import cupy, drystone, drystone.cupy
        drystone.cupy.install()
        for i in range(200):
            with cupy.cuda.Stream(non_blocking=True) as stream:
                assert int(cupy.full(100_000, i).sum()) == 100_000 * i
            del stream
        drystone.empty_cache()
        assert drystone.stats(0)["allocated_bytes.all.current"] == 0
        """,
        "cupy",
    )


def test_out_of_memory_is_caught_and_work_goes_on() -> None:
    on_gpu(
        """
        import cupy, drystone, drystone.cupy
        drystone.cupy.install()
        drystone.limit(256 << 20, 0)
        held = cupy.zeros(150 << 20, dtype=cupy.uint8)
        for _ in range(1000):
            try:
                cupy.zeros(150 << 20, dtype=cupy.uint8)
            except cupy.cuda.memory.OutOfMemoryError as error:
                assert "out of memory on device 0" in str(error)
            else:
                raise AssertionError("it is above the limit")
        del held
        assert int(cupy.ones(150 << 20, dtype=cupy.uint8).sum()) == 150 << 20
        """,
        "cupy",
    )


def test_torch_and_cupy_share_one_pool() -> None:
    on_gpu(
        """
        import torch, cupy, drystone, drystone.cupy
        drystone.install()
        drystone.cupy.install()
        tensor = torch.full((1 << 24,), 3.0, device="cuda")
        seen = cupy.from_dlpack(tensor)
        assert seen.data.ptr == tensor.data_ptr() and float(seen[-1]) == 3.0
        address, reserved = tensor.data_ptr(), drystone.reserved(0)
        del tensor, seen
        array = cupy.ones(1 << 24, dtype=cupy.float32)
        assert array.data.ptr == address, "what PyTorch freed is CuPy's"
        assert drystone.reserved(0) == reserved, "and nothing was added"
        assert torch.cuda.memory_allocated() >= array.nbytes
        back = torch.from_dlpack(array)
        del array
        assert float(back.sum()) == 1 << 24
        """,
        "cupy",
        "torch",
    )


def test_beside_a_library_with_memory_of_its_own() -> None:
    """The recipes of docs/tuning.md; the other library is cudaMalloc itself."""
    on_gpu(
        """
        import cupy, drystone, drystone.cupy
        drystone.cupy.install()
        malloc, free = cupy.cuda.runtime.malloc, cupy.cuda.runtime.free
        total = drystone.memory_info(0).total
        most = total // 2

        # What Drystone has cached is not there for others ...
        kept = cupy.zeros(1 << 20)
        cupy.zeros(most, dtype=cupy.uint8)
        assert drystone.reserved(0) >= most
        try:
            free(malloc(most + (most >> 2)))
            raise AssertionError("there is not so much left")
        except cupy.cuda.runtime.CUDARuntimeError:
            pass
        # ... but during a pause, which also adds nothing.
        with drystone.pause(0):
            other = malloc(most + (most >> 2))
            try:
                cupy.zeros(64 << 20, dtype=cupy.uint8)
                raise AssertionError("nothing is added in a pause")
            except cupy.cuda.memory.OutOfMemoryError:
                pass
        assert drystone.get_limit(0) is None

        # The other way round: the other library gives back what it can when Drystone is short.
        def give(shortage):
            global other
            if other:
                free(other)
                other = 0
                return True
            return False
        with drystone.on_out_of_memory(give):
            large = cupy.zeros(most, dtype=cupy.uint8)
        assert other == 0 and large.nbytes == most and float(kept.sum()) == 0
        """,
        "cupy",
    )
