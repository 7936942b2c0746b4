//! Finding what libraries that are already loaded export. Nothing is loaded that is not there.
//!
//! Python loads torch's libraries for themselves (`RTLD_LOCAL`), so a look-up in the whole process
//! does not see them. Each is found by its file name among the loaded ones and asked directly, and
//! with it the libraries that it needs.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A loaded library, which stays loaded: the reference taken here is never given back.
#[derive(Clone, Copy)]
pub(super) struct Library(*mut c_void);

impl Library {
    /// The loaded library whose file name starts with `stem`, followed by a dot: `libc10` finds
    /// `libc10.so` and `libc10.so.2`, and not `libc10_cuda.so`.
    pub(super) fn loaded(stem: &str) -> Option<Library> {
        let path = loaded_paths().into_iter().find(|path| is_named(path, stem))?;
        // SAFETY: the path is a C string. With RTLD_NOLOAD no library is loaded and none of its
        // code runs.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!handle.is_null()).then_some(Library(handle))
    }

    /// The address of what the library, or one that it needs, exports under `name`.
    pub(super) fn symbol(self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is that of a library which stays loaded, the name is a C string.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }
}

/// Whether the file name at the end of `path` is `stem`, then a dot and anything.
fn is_named(path: &CStr, stem: &str) -> bool {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let Some(file) = path.file_name().map(OsStrExt::as_bytes) else { return false };
    file.strip_prefix(stem.as_bytes()).is_some_and(|rest| rest.starts_with(b"."))
}

/// The paths of all libraries that are loaded now.
fn loaded_paths() -> Vec<CString> {
    let mut paths = Vec::new();
    // SAFETY: `note` takes the data for what is passed here, and it lives throughout the call.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut paths).cast()) };
    paths
}

/// Adds the path of one loaded library to the `Vec<CString>` behind `paths`.
///
/// # Safety
/// Only for `dl_iterate_phdr` as called in [`loaded_paths`].
unsafe extern "C" fn note(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    paths: *mut c_void,
) -> c_int {
    // SAFETY: the linker hands out valid information.
    let name: *const c_char = unsafe { (*info).dlpi_name };
    if !name.is_null() {
        // SAFETY: the caller passed a vector, and nobody else looks at it meanwhile.
        let paths = unsafe { &mut *paths.cast::<Vec<CString>>() };
        // SAFETY: a path of the linker's is a C string.
        paths.push(unsafe { CStr::from_ptr(name) }.to_owned());
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let cases: [(&CStr, &str, bool); 6] = [
            (c"/usr/lib/libc10.so", "libc10", true),
            (c"libc10.so.2", "libc10", true),
            (c"/usr/lib/libc10_cuda.so", "libc10", false),
            (c"/usr/libc10.so/other", "libc10", false),
            (c"", "libc10", false),
            (c"/", "libc10", false),
        ];
        for (path, stem, wanted) in cases {
            assert_eq!(is_named(path, stem), wanted, "{path:?} {stem}");
        }
    }

    #[test]
    fn the_c_library_is_loaded_and_another_is_not() {
        let libc = Library::loaded("libc").expect("the C library");
        assert!(libc.symbol(c"malloc").is_some());
        assert!(libc.symbol(c"drystone_has_no_such_thing").is_none());
        assert!(Library::loaded("libdrystone-has-no-such-library").is_none());
    }
}
