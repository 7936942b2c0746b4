//! Runs a kernel on buffers out of a pool, through cudarc, and checks what it computed.
//!
//! ```text
//! cargo run -p drystone --example kernel
//! ```
//!
//! Where there is no GPU it says so, and ends well.

use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use drystone::{Error, Pool};

/// `y[i] = a * x[i] + y[i]` for the `i` below `n`, one thread for each. The driver compiles it for
/// the GPU that it finds.
const AXPY: &str = r"
.version 7.0
.target sm_70
.address_size 64

.visible .entry axpy(
    .param .u64 param_n,
    .param .f32 param_a,
    .param .u64 param_x,
    .param .u64 param_y)
{
    .reg .pred  %past;
    .reg .u32   %thread, %block, %threads;
    .reg .u64   %n, %index, %offset, %x, %y;
    .reg .f32   %a, %left, %right;

    ld.param.u64        %n, [param_n];
    ld.param.f32        %a, [param_a];
    ld.param.u64        %x, [param_x];
    ld.param.u64        %y, [param_y];
    cvta.to.global.u64  %x, %x;
    cvta.to.global.u64  %y, %y;
    mov.u32             %thread, %tid.x;
    mov.u32             %block, %ctaid.x;
    mov.u32             %threads, %ntid.x;
    cvt.u64.u32         %index, %thread;
    mad.wide.u32        %index, %block, %threads, %index;
    setp.ge.u64         %past, %index, %n;
    @%past bra          end;
    shl.b64             %offset, %index, 2;
    add.u64             %x, %x, %offset;
    add.u64             %y, %y, %offset;
    ld.global.f32       %left, [%x];
    ld.global.f32       %right, [%y];
    fma.rn.f32          %right, %a, %left, %right;
    st.global.f32       [%y], %right;
end:
    ret;
}
";

/// Elements of each buffer.
const COUNT: usize = 1_000_000;
/// How often the kernel is run; each run makes a buffer of its own.
const RUNS: usize = 10;

fn main() {
    match run() {
        Ok(text) => println!("{text}"),
        Err(error) if error.is_no_device() => println!("Nothing was run. {error}"),
        Err(error) => {
            eprintln!("kernel: {error}");
            std::process::exit(1);
        }
    }
}

fn run() -> Result<String, Error> {
    let pool = Pool::open(0)?;
    let stream = pool.context().new_stream()?;
    let axpy = pool.context().load_module(Ptx::from_src(AXPY))?.load_function("axpy")?;

    let mut sum = pool.alloc_zeros::<f32>(&stream, COUNT)?;
    for run in 1..=RUNS {
        let numbers: Vec<f32> = (0..COUNT).map(|i| (i % 1024) as f32).collect();
        let numbers = pool.clone_htod(&stream, &numbers)?;
        let (count, factor) = (COUNT as u64, run as f32);
        let mut launch = stream.launch_builder(&axpy);
        launch.arg(&count).arg(&factor).arg(&numbers).arg(&mut sum);
        // SAFETY: the arguments are the kernel's parameters, in order, and it writes below `count`.
        unsafe { launch.launch(LaunchConfig::for_num_elems(COUNT as u32)) }?;
        // `numbers` ends here while the kernel may still run. The next run gets the same memory:
        // what it writes there is later in the stream's order.
    }

    let sum = stream.clone_dtoh(&sum)?;
    let factors = (RUNS * (RUNS + 1) / 2) as f32;
    let wrong = sum.iter().enumerate().filter(|&(i, &value)| value != (i % 1024) as f32 * factors);
    let wrong = wrong.count();
    assert_eq!(wrong, 0, "{wrong} of {COUNT} elements are wrong");
    let mib = pool.reserved_bytes()? >> 20;
    let name = pool.context().name()?;
    Ok(format!("{RUNS} runs over {COUNT} elements on {name} are right; the pool holds {mib} MiB"))
}
