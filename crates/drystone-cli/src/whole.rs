//! Files that come about as a whole or not at all: under another name until the end, which goes away
//! with whatever stops the program before it, Ctrl-C among that.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It is left as it is, and writing fails.
    Keep,
    /// The new one takes its place. What is no plain file, as a pipe or a link, is written to.
    Replace,
}

/// Writes a file; how many bytes it has.
pub(crate) fn write(
    path: &Path,
    existing: Existing,
    body: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<u64> {
    let odd = |path| fs::symlink_metadata(path).is_ok_and(|there| !there.is_file());
    if existing == Existing::Replace && odd(path) {
        return fill(&File::create(path)?, body);
    }
    let (file, part) = interrupt::guarded(|parts| {
        let (file, part) = part_beside(path)?.into_parts();
        parts.push(part.to_path_buf());
        Ok((file, part))
    })?;
    let bytes = fill(&file, body);
    interrupt::guarded(|parts| {
        parts.retain(|known| **known != *part);
        let bytes = bytes?;
        persist(part, path, existing)?;
        Ok(bytes)
    })
}

fn fill(
    file: &File,
    body: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<u64> {
    let mut buffer = BufWriter::with_capacity(1 << 16, file);
    body(&mut buffer).and_then(|()| buffer.flush())?;
    drop(buffer);
    Ok(file.metadata()?.len())
}

/// A new file in the folder of `path`, where it can take that name. It is removed when it is dropped.
fn part_beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".drystone-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: what the user's mask leaves of it.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

fn persist(part: TempPath, path: &Path, existing: Existing) -> io::Result<()> {
    match existing {
        Existing::Keep => part.persist_noclobber(path)?,
        Existing::Replace => part.persist(path)?,
    }
    Ok(())
}

/// What is removed when somebody stops the program. A signal does not unwind, so nothing is dropped.
mod interrupt {
    use std::io;
    use std::path::PathBuf;
    use std::sync::{Mutex, PoisonError};

    static PARTS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    /// Changes which files there are and the list of them, and is not interrupted between.
    pub(super) fn guarded<T>(
        change: impl FnOnce(&mut Vec<PathBuf>) -> io::Result<T>,
    ) -> io::Result<T> {
        #[cfg(unix)]
        listen()?;
        change(&mut PARTS.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the first file on, a thread waits for what stops programs, removes the files, and lets
    /// it stop this one.
    #[cfg(unix)]
    fn listen() -> io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use std::sync::Once;

        static STARTED: Once = Once::new();
        let mut started = Ok(());
        STARTED.call_once(|| {
            started = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map(|mut signals| {
                std::thread::spawn(move || {
                    for signal in signals.forever() {
                        // Kept until the end, so that no file comes about after this.
                        let parts = PARTS.lock().unwrap_or_else(PoisonError::into_inner);
                        for part in &*parts {
                            // Nothing is left to be told, or to be done.
                            let _ = std::fs::remove_file(part);
                        }
                        let _ = signal_hook::low_level::emulate_default_handler(signal);
                    }
                });
            });
        });
        started
    }
}
