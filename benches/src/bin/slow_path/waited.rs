//! How long the thread has waited for a processor that other programs had: not a part of what it
//! does.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The kernel's account of this thread.
pub(crate) struct Waited(Option<File>);

impl Waited {
    pub(crate) fn new() -> Self {
        Waited(File::open("/proc/thread-self/schedstat").ok())
    }

    /// Nanoseconds so far; always 0 where the kernel does not tell.
    pub(crate) fn ns(&self) -> u64 {
        let mut text = [0; 96];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let text = std::str::from_utf8(&text[..read.unwrap_or(0)]).unwrap_or_default();
        text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0)
    }
}
