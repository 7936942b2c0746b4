//! Traces as text: one event a line, `t_us,op,id,size,stream`, and what else the format allows.
//!
//! * Line ends are `\n` or `\r\n`; empty lines are skipped. Numbers are plain decimal.
//! * `op` is a letter ([`Op::letter`](crate::Op::letter)).
//! * `id` is any 64-bit number, free to be reused once its block is freed, and empty for operations
//!   without a block; `-1` on a free stands for a block that the recorder did not know.
//! * `stream` is any 64-bit number, also a negative one as torch writes handles; 0 is the default stream,
//!   which a number beyond 64 bits becomes, too.
//! * A column `device` may follow; without it all is device 0.
//! * A column `pool` may come last, behind `stream` or `device`: of an allocation any 64-bit number, 0 for
//!   the default pool; of all else 0. Without it all is in the default pool.
//! * Before the columns' names a line `#prelude=N` may say that the first N events are
//!   reconstructed allocations; other lines that start with `#` are skipped there.

mod lines;
mod parse;
mod reader;
mod writer;

pub(crate) use lines::Lines;
pub(crate) use parse::{Stream, field, number};
pub(crate) use reader::{Wrong, is_csv, read, wrong};
pub use writer::write_csv;

/// Which columns a CSV has beside the five of all.
#[derive(Clone, Copy)]
struct Columns {
    device: bool,
    pool: bool,
}

impl Columns {
    const ALL: [Columns; 4] = [
        Columns { device: false, pool: false },
        Columns { device: true, pool: false },
        Columns { device: false, pool: true },
        Columns { device: true, pool: true },
    ];

    /// The line with their names.
    const fn header(self) -> &'static str {
        match (self.device, self.pool) {
            (false, false) => "t_us,op,id,size,stream",
            (true, false) => "t_us,op,id,size,stream,device",
            (false, true) => "t_us,op,id,size,stream,pool",
            (true, true) => "t_us,op,id,size,stream,device,pool",
        }
    }
}

const PRELUDE: &str = "#prelude=";
