//! A pool for a test, or the line that says why the test is skipped; and a kernel that is late.

use std::io::Write;

use cudarc::driver::CudaFunction;
use cudarc::nvrtc::Ptx;
use drystone::{Config, Pool, cuda::CudaDriver, cuda::CudaError};

/// Copies 8-byte words, `param_words` of them, one thread for each; every thread first waits for
/// about `param_spin` clock cycles.
const COPY_LATE: &str = r"
.version 7.0
.target sm_70
.address_size 64

.visible .entry copy_late(
    .param .u64 param_words,
    .param .u64 param_spin,
    .param .u64 param_from,
    .param .u64 param_to)
{
    .reg .pred  %waiting, %past;
    .reg .u32   %thread, %block, %threads;
    .reg .u64   %words, %spin, %start, %now, %index, %offset, %from, %to, %word;

    ld.param.u64        %words, [param_words];
    ld.param.u64        %spin, [param_spin];
    ld.param.u64        %from, [param_from];
    ld.param.u64        %to, [param_to];
    cvta.to.global.u64  %from, %from;
    cvta.to.global.u64  %to, %to;

    mov.u64             %start, %clock64;
wait:
    mov.u64             %now, %clock64;
    sub.u64             %now, %now, %start;
    setp.lt.u64         %waiting, %now, %spin;
    @%waiting bra       wait;

    mov.u32             %thread, %tid.x;
    mov.u32             %block, %ctaid.x;
    mov.u32             %threads, %ntid.x;
    cvt.u64.u32         %index, %thread;
    mad.wide.u32        %index, %block, %threads, %index;
    setp.ge.u64         %past, %index, %words;
    @%past bra          end;
    shl.b64             %offset, %index, 3;
    add.u64             %from, %from, %offset;
    add.u64             %to, %to, %offset;
    ld.global.u64       %word, [%from];
    st.global.u64       [%to], %word;
end:
    ret;
}
";

/// The kernel, for `(words, spin, from, to)`.
pub(crate) fn copy_late(pool: &Pool) -> CudaFunction {
    let module = pool.context().load_module(Ptx::from_src(COPY_LATE)).expect("it is valid PTX");
    module.load_function("copy_late").expect("it is in the text")
}

/// The configuration of the tests, whatever the environment says.
pub(crate) fn settings() -> Config {
    Config::default()
}

/// A pool on the first device, or `None` and one line on stderr where there is no device.
///
/// With `DRYSTONE_REQUIRE_GPU` set the test fails instead, so that a run on a GPU machine cannot
/// pass by skipping.
pub(crate) fn pool() -> Option<Pool> {
    match CudaDriver::new() {
        Ok(_) => {
            let context = cudarc::driver::CudaContext::new(0).expect("context");
            Some(Pool::with_config(&context, settings()).expect("pool"))
        }
        Err(error @ CudaError::NoDevice(_)) => {
            assert!(std::env::var_os("DRYSTONE_REQUIRE_GPU").is_none(), "{error}");
            // Not eprintln: the test harness would keep the line of a test that passes. In one
            // piece, so that tests side by side do not mix their lines.
            let _ = std::io::stderr().write_all(format!("skipped: {error}\n").as_bytes());
            None
        }
        Err(error) => panic!("{error}"),
    }
}
