"""Numba out of Drystone on a real GPU, alone and beside CuPy."""

from __future__ import annotations

import pytest
from library_tools import on_gpu


@pytest.mark.parametrize("stream_ordered", [False, True])
def test_arrays_and_kernels(stream_ordered: bool) -> None:
    on_gpu(
        f"""
        import numpy, drystone, drystone.numba
        drystone.numba.install(stream_ordered={stream_ordered})
        from numba import cuda

        @cuda.jit
        def add(a, b, c):
            i = cuda.grid(1)
            if i < c.size:
                c[i] = a[i] + b[i]

        live = lambda: drystone.stats(0)["allocated_bytes.all.current"]
        host = numpy.arange(1_000_000, dtype=numpy.float32)
        for _ in range(50):
            a, b = cuda.to_device(host), cuda.to_device(host)
            assert live() >= 8_000_000
            c = cuda.device_array_like(a)
            add[(1_000_000 + 255) // 256, 256](a, b, c)
            assert (c.copy_to_host() == 2 * host).all()
            part = c[10:20]
            del a, b, c
            assert (part.copy_to_host() == 2 * host[10:20]).all(), "a view keeps its memory"
            del part
        assert live() <= 14 * 4_000_512, "what is given up is given back in time"
        info = cuda.current_context().get_memory_info()
        assert 0 < info.free < info.total
        with cuda.defer_cleanup():
            cuda.to_device(host)
        """,
        "numba",
    )


def test_memory_that_another_stream_uses_is_not_handed_out() -> None:
    on_gpu(
        """
        import numpy, drystone, drystone.numba
        drystone.numba.install()
        from numba import cuda

        @cuda.jit
        def late_copy(source, target, rounds):
            i = cuda.grid(1)
            x = 0.0
            for k in range(rounds):
                x += source[i] * 0.5 - x * 0.25
            if x != -1.0:
                target[i] = source[i]

        count = 1 << 20
        ones = numpy.ones(count, dtype=numpy.float32)
        stream, other = cuda.stream(), cuda.stream()
        target = cuda.device_array(count, dtype=numpy.float32)
        for _ in range(20):
            source = cuda.to_device(ones)
            late_copy[count // 256, 256, stream](source, target, 20_000)
            del source
            again = cuda.to_device(2 * ones, stream=other)
            other.synchronize()
            del again
            stream.synchronize()
            assert (target.copy_to_host() == 1).all()
        """,
        "numba",
    )


def test_out_of_memory_is_caught_and_work_goes_on() -> None:
    on_gpu(
        """
        import numpy, drystone, drystone.numba
        drystone.numba.install()
        from numba import cuda
        from numba.cuda.cudadrv.driver import CudaAPIError

        drystone.limit(256 << 20, 0)
        held = cuda.device_array(150 << 20, dtype=numpy.uint8)
        for _ in range(100):
            try:
                cuda.device_array(150 << 20, dtype=numpy.uint8)
            except CudaAPIError as error:
                assert error.code == 2 and "out of memory on device 0" in str(error)
            else:
                raise AssertionError("it is above the limit")
        del held
        assert cuda.device_array(150 << 20, dtype=numpy.uint8).size == 150 << 20
        """,
        "numba",
    )


def test_by_the_environment_variable_alone() -> None:
    on_gpu(
        """
        import os
        os.environ["NUMBA_CUDA_MEMORY_MANAGER"] = "drystone.numba"
        from numba import cuda
        import drystone
        array = cuda.device_array(1 << 20)
        assert drystone.stats(0)["allocated_bytes.all.current"] >= 8 << 20
        """,
        "numba",
    )


def test_too_late_is_an_error() -> None:
    on_gpu(
        """
        from numba import cuda
        import drystone, drystone.numba
        own = cuda.device_array(10)
        try:
            drystone.numba.install()
        except drystone.Error as error:
            assert "already" in str(error)
        else:
            raise AssertionError("Numba has a context with memory of its own")
        """,
        "numba",
    )


@pytest.mark.parametrize("backing", ["malloc", "vmm"])
def test_handles_for_other_processes(backing: str) -> None:
    on_gpu(
        f"""
        import drystone, drystone.numba
        drystone.numba.install()
        from numba import cuda
        array = cuda.device_array(1 << 20)
        try:
            array.get_ipc_handle()
            assert {backing!r} == "malloc"
        except drystone.Error as error:
            assert {backing!r} == "vmm" and "backing:malloc" in str(error)
        """,
        "numba",
        settings=f"backing:{backing}",
    )


def test_cupy_and_numba_share_one_pool() -> None:
    on_gpu(
        """
        import cupy, numpy, drystone, drystone.cupy, drystone.numba
        drystone.cupy.install()
        drystone.numba.install(stream_ordered=True)
        from numba import cuda
        array = cupy.full(1 << 22, 5, dtype=cupy.float32)
        seen = cuda.as_cuda_array(array)
        assert seen.copy_to_host()[-1] == 5
        address, reserved = array.data.ptr, drystone.reserved(0)
        del array, seen
        own = cuda.device_array(1 << 22, dtype=numpy.float32)
        assert own.device_ctypes_pointer.value == address and drystone.reserved(0) == reserved
        """,
        "cupy",
        "numba",
    )
