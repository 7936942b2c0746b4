//! The formats that a run can be written in: their names, and what each leaves out.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use crate::csv::write_csv;
use crate::native::write_native;
use crate::run::Run;

/// A format to write a run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Our CSV.
    Csv,
    /// The same, compressed with xz.
    CsvXz,
    /// The same, compressed with Zstandard.
    CsvZst,
    /// Our compact format.
    Native,
    /// A snapshot as `torch.cuda.memory._dump_snapshot` writes it.
    Pickle,
    /// The same as JSON, which torch's viewer opens as well.
    Json,
}

/// Something that a format has no place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What it is, in the plural.
    pub what: &'static str,
    /// How many of it the run has.
    pub count: u64,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.count)
    }
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 6] =
        [Format::Csv, Format::CsvXz, Format::CsvZst, Format::Native, Format::Pickle, Format::Json];

    /// Its name, which is the usual ending of files without the point.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Csv => "csv",
            Format::CsvXz => "csv.xz",
            Format::CsvZst => "csv.zst",
            Format::Native => "dst",
            Format::Pickle => "pickle",
            Format::Json => "json",
        }
    }

    /// The format of this name, or of a file with such a name.
    pub fn of(name: impl AsRef<Path>) -> Option<Format> {
        let name = name.as_ref().file_name()?.to_str()?;
        let is = |ending: &str| {
            let before = name.strip_suffix(ending);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        if is("pkl") {
            return Some(Format::Pickle);
        }
        Format::ALL.into_iter().find(|format| is(format.name()))
    }

    /// Whether files of this format are torch's snapshots.
    pub const fn is_snapshot(self) -> bool {
        matches!(self, Format::Pickle | Format::Json)
    }

    /// What of `run` has no place in this format.
    pub fn leaves_out(self, run: &Run) -> Vec<LeftOut> {
        let segments = LeftOut { what: "segments", count: run.segments.len() as u64 };
        let found = match self {
            Format::Native => Vec::new(),
            Format::Csv | Format::CsvXz | Format::CsvZst => {
                let stacks = run.block_stacks.iter().filter(|stack| stack.number() != 0).count();
                vec![
                    LeftOut { what: "stacks of blocks", count: stacks as u64 },
                    LeftOut { what: "settings", count: run.settings.len() as u64 },
                    segments,
                ]
            }
            Format::Pickle | Format::Json => {
                let events = run.left_out_of_snapshot();
                vec![segments, LeftOut { what: "events of segments", count: events }]
            }
        };
        found.into_iter().filter(|left_out| left_out.count > 0).collect()
    }

    /// Writes the run. What [`leaves_out`](Self::leaves_out) tells of is not written.
    ///
    /// # Errors
    /// What `out` answers to a write, and [`InvalidInput`](io::ErrorKind::InvalidInput) for a run that
    /// cannot be a snapshot (see [`Run::to_snapshot`]).
    pub fn write(self, run: &Run, out: impl Write) -> io::Result<()> {
        match self {
            Format::Csv => write_csv(&run.trace, out),
            Format::CsvXz => {
                let mut packer = liblzma::write::XzEncoder::new(out, XZ_LEVEL);
                write_csv(&run.trace, &mut packer)?;
                packer.finish()?.flush()
            }
            Format::CsvZst => {
                let mut packer = zstd::stream::write::Encoder::new(out, ZST_LEVEL)?;
                packer.include_checksum(true)?;
                write_csv(&run.trace, &mut packer)?;
                packer.finish()?.flush()
            }
            Format::Native => write_native(run, out),
            Format::Pickle | Format::Json => {
                let refused = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
                let snapshot = run.to_snapshot().map_err(refused)?;
                if self == Format::Json {
                    snapshot.write_json(out)
                } else {
                    snapshot.write_pickle(out)
                }
            }
        }
    }
}

/// The programs' own defaults: higher ones take several times as long for a few percent.
const XZ_LEVEL: u32 = 6;
const ZST_LEVEL: i32 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_known_by_its_name_and_by_a_files() {
        for (name, format) in [
            ("csv", Some(Format::Csv)),
            ("runs/a.csv", Some(Format::Csv)),
            ("a.csv.xz", Some(Format::CsvXz)),
            ("csv.zst", Some(Format::CsvZst)),
            ("a.b.dst", Some(Format::Native)),
            ("a.pickle", Some(Format::Pickle)),
            ("a.pkl", Some(Format::Pickle)),
            ("json", Some(Format::Json)),
            ("a.json.xz", None),
            ("a", None),
            ("my-csv", None),
            ("", None),
        ] {
            assert_eq!(Format::of(name), format, "{name}");
        }
    }
}
