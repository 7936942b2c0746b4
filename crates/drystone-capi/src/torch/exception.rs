//! C++ exceptions from Rust, without a compiler on the user's machine.
//!
//! torch turns `c10::OutOfMemoryError` into Python's `torch.OutOfMemoryError`, and `c10::Error` into
//! a `RuntimeError`, each with its message. Both are classes of the process's own torch, so what
//! makes one is there, exported: the constructor of `c10::Error` (in libc10), the virtual tables and
//! type information (in libc10 and libc10_cuda), and the C++ runtime that torch runs on.
//! `OutOfMemoryError` adds nothing to `Error` but its type, which is its virtual table: an object made
//! by the constructor of `Error`, with that table put in, is one.
//!
//! What is assumed beyond the exported names is the C++ ABI that all compilers on Linux share (where
//! the table pointer lies, what its first entries are, how a string object is passed) and that an
//! `Error` has at most [`ROOM`] bytes; torch 2.11's has 128. A trial when the symbols are looked up
//! builds each exception, reads its message back through the table and destroys it. If anything is
//! missing or comes out wrong, out of memory is `std::bad_alloc` instead (in Python a
//! `RuntimeError`), and if the process has no C++ runtime at all, nothing can be thrown.

use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::symbols::Library;

/// Bytes given to an exception object, several times what one needs.
const ROOM: usize = 1024;
/// Bytes of a C++ string object; libstdc++'s has 32.
const STRING: usize = 64;
/// Bytes in a virtual table before the entries that an object points at: the offset to the top of
/// the object, and the type information.
const TABLE_HEAD: usize = 2 * size_of::<usize>();
/// The entries of the table of an exception: the destructor, one that also frees, and `what`.
const DESTRUCTOR: usize = 0;
const WHAT: usize = 2;

/// Room for a C++ object.
#[repr(C, align(16))]
struct Room<const BYTES: usize>(MaybeUninit<[u8; BYTES]>);

impl<const BYTES: usize> Room<BYTES> {
    fn new() -> Self {
        Room(MaybeUninit::zeroed())
    }

    fn at(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }
}

/// `c10::SourceLocation`: where an error was raised.
#[repr(C)]
struct SourceLocation {
    function: *const c_char,
    file: *const c_char,
    line: u32,
}

type Destructor = unsafe extern "C" fn(*mut c_void);
type What = unsafe extern "C" fn(*const c_void) -> *const c_char;

/// The C++ runtime: functions of libstdc++, by the names that its ABI gives them.
#[derive(Clone, Copy)]
struct Runtime {
    allocate_exception: unsafe extern "C" fn(usize) -> *mut c_void,
    throw: unsafe extern "C-unwind" fn(*mut c_void, *mut c_void, Destructor) -> !,
    throw_bad_alloc: unsafe extern "C-unwind" fn() -> !,
}

/// What `c10::Error` and the string in its constructor need.
#[derive(Clone, Copy)]
struct Torch {
    make_string: unsafe extern "C-unwind" fn(*mut c_void, *const c_char, usize, *const c_void),
    drop_string: Destructor,
    make_error: unsafe extern "C-unwind" fn(*mut c_void, SourceLocation, *mut c_void),
    error: Class,
    out_of_memory: Class,
}

/// A class of exceptions: its virtual table and its type information.
#[derive(Clone, Copy)]
struct Class {
    table: *const c_void,
    type_info: *mut c_void,
}

/// What can be thrown in this process.
#[derive(Clone, Copy)]
enum Throws {
    /// torch's own exceptions.
    Torch(Runtime, Torch),
    /// `std::bad_alloc` only.
    BadAlloc(Runtime, Shortfall),
    /// Nothing: there is no C++ runtime.
    Nothing,
}

/// Why torch's exceptions cannot be thrown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortfall {
    /// This library is not loaded.
    Library(&'static str),
    /// This symbol is not exported.
    Symbol(&'static CStr),
    /// An exception that was built on trial did not give its message back.
    Trial,
}

// SAFETY: the pointers are addresses of code and read-only data of libraries that stay loaded.
unsafe impl Send for Throws {}
// SAFETY: as above.
unsafe impl Sync for Throws {}

/// What to raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raise {
    /// `c10::OutOfMemoryError`.
    OutOfMemory,
    /// `c10::Error`.
    Error,
}

/// An exception ready to be thrown. It needs no destructor, so that none is skipped in the frame that
/// throws it; one that is not thrown leaks.
#[derive(Clone, Copy)]
#[must_use]
pub(super) struct Exception(Ready);

#[derive(Clone, Copy)]
enum Ready {
    Torch { runtime: Runtime, object: *mut c_void, type_info: *mut c_void, destructor: Destructor },
    BadAlloc(Runtime),
    Nothing,
}

/// Builds an exception with this message. Bytes of 0 in it end it.
pub(super) fn exception(raise: Raise, message: &str) -> Exception {
    match throws() {
        Throws::Torch(runtime, torch) => {
            let class = match raise {
                Raise::OutOfMemory => torch.out_of_memory,
                Raise::Error => torch.error,
            };
            // SAFETY: the runtime's function, called as the C++ ABI says.
            let object = unsafe { (runtime.allocate_exception)(ROOM) };
            // SAFETY: the object has `ROOM` bytes, and the symbols passed the trial.
            unsafe { construct(&torch, class, object, message) };
            // SAFETY: the object was just made with this table.
            let destructor = unsafe { entry::<Destructor>(object, DESTRUCTOR) };
            let type_info = class.type_info;
            Exception(Ready::Torch { runtime, object, type_info, destructor })
        }
        Throws::BadAlloc(runtime, _) => Exception(Ready::BadAlloc(runtime)),
        Throws::Nothing => Exception(Ready::Nothing),
    }
}

impl Exception {
    /// Throws it. Returns only if the process has no C++ runtime, and so no caller that could
    /// catch.
    ///
    /// # Safety
    /// The frames up to the C++ caller are of `extern "C-unwind"` functions that have nothing left to
    /// drop.
    #[inline(always)]
    pub(super) unsafe fn throw(self) {
        match self.0 {
            Ready::Torch { runtime, object, type_info, destructor } => {
                // SAFETY: an object of this type, in memory of the runtime's, and its destructor.
                unsafe { (runtime.throw)(object, type_info, destructor) }
            }
            // SAFETY: the runtime's function; the caller keeps its frames free.
            Ready::BadAlloc(runtime) => unsafe { (runtime.throw_bad_alloc)() },
            Ready::Nothing => {}
        }
    }
}

/// What out of memory raises in this process, in words; in the error, what it is instead of torch's
/// own exception, and why.
pub(super) fn describe() -> Result<(), String> {
    match throws() {
        Throws::Torch(..) => Ok(()),
        Throws::BadAlloc(_, why) => Err(format!(
            "out of memory is std::bad_alloc here (in Python a RuntimeError), since {}",
            match why {
                Shortfall::Library(name) => format!("{name} is not loaded: import torch first"),
                Shortfall::Symbol(name) => format!(
                    "this torch does not export {}; tell the authors its version",
                    name.to_string_lossy()
                ),
                Shortfall::Trial => {
                    "c10::Error of this torch is not laid out as expected; tell the authors its version"
                        .to_owned()
                }
            }
        )),
        Throws::Nothing => Err("nothing can be thrown here, since no C++ runtime (libstdc++) is \
            loaded: an allocation that fails is a null pointer"
            .to_owned()),
    }
}

/// What can be thrown. It is found out once torch is there; until then it is asked again each time.
fn throws() -> Throws {
    static FOUND: OnceLock<Throws> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return *found;
    }
    let found = find();
    match found {
        Throws::BadAlloc(_, Shortfall::Library(_)) | Throws::Nothing => found,
        lasting => *FOUND.get_or_init(|| lasting),
    }
}

fn find() -> Throws {
    let Some(runtime) = Library::loaded("libstdc++").and_then(find_runtime) else {
        return Throws::Nothing;
    };
    match find_torch().and_then(|torch| try_out(&torch).map(|()| torch)) {
        Ok(torch) => Throws::Torch(runtime, torch),
        Err(why) => Throws::BadAlloc(runtime, why),
    }
}

fn find_runtime(library: Library) -> Option<Runtime> {
    // SAFETY: functions of the C++ ABI, with the signatures that it gives them.
    unsafe {
        Some(Runtime {
            allocate_exception: function(library.symbol(c"__cxa_allocate_exception")?),
            throw: function(library.symbol(c"__cxa_throw")?),
            throw_bad_alloc: function(library.symbol(c"_ZSt17__throw_bad_allocv")?),
        })
    }
}

fn find_torch() -> Result<Torch, Shortfall> {
    let c10 = Library::loaded("libc10").ok_or(Shortfall::Library("libc10"))?;
    // The class has no code of its own: its table is wherever it is thrown or caught.
    let throwers = ["libc10_cuda", "libtorch_cuda", "libtorch_python"];
    let throwers: Vec<Library> = throwers.into_iter().filter_map(Library::loaded).collect();
    if throwers.is_empty() {
        return Err(Shortfall::Library("libc10_cuda"));
    }
    let of_c10 = |name| c10.symbol(name).ok_or(Shortfall::Symbol(name));
    let of_thrower = |name| {
        throwers.iter().find_map(|library| library.symbol(name)).ok_or(Shortfall::Symbol(name))
    };
    // SAFETY: the mangled names spell out these parameters: a string from characters, a length and an
    // allocator object without state, a string's destructor, an Error from a location and a string,
    // which is passed by its address since it has a destructor.
    unsafe {
        Ok(Torch {
            make_string: function(of_c10(
                c"_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEC1EPKcmRKS3_",
            )?),
            drop_string: function(of_c10(
                c"_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEED1Ev",
            )?),
            make_error: function(of_c10(
                c"_ZN3c105ErrorC1ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
            )?),
            error: Class {
                table: of_c10(c"_ZTVN3c105ErrorE")?,
                type_info: of_c10(c"_ZTIN3c105ErrorE")?,
            },
            out_of_memory: Class {
                table: of_thrower(c"_ZTVN3c1016OutOfMemoryErrorE")?,
                type_info: of_thrower(c"_ZTIN3c1016OutOfMemoryErrorE")?,
            },
        })
    }
}

/// Builds one exception of each class, reads its message and destroys it.
fn try_out(torch: &Torch) -> Result<(), Shortfall> {
    const MESSAGE: &str = "Drystone tries out how torch's exceptions are made";
    for class in [torch.error, torch.out_of_memory] {
        let mut room = Room::<ROOM>::new();
        let object = room.at();
        // SAFETY: there are `ROOM` bytes. Whether the symbols fit is what is tried out.
        unsafe { construct(torch, class, object, MESSAGE) };
        // SAFETY: the object was just made, and the first three entries of an exception's table are
        // fixed by `std::exception`; `what` gives a C string that lives as long as the object.
        let said = unsafe { CStr::from_ptr(entry::<What>(object, WHAT)(object)) };
        let right = said.to_bytes().starts_with(MESSAGE.as_bytes());
        // SAFETY: as above; nobody looks at the object or its message afterwards.
        unsafe { entry::<Destructor>(object, DESTRUCTOR)(object) };
        if !right {
            return Err(Shortfall::Trial);
        }
    }
    Ok(())
}

/// Makes an exception of a class at `object`.
///
/// # Safety
/// There are [`ROOM`] bytes at `object`, and `torch` holds what it says.
unsafe fn construct(torch: &Torch, class: Class, object: *mut c_void, message: &str) {
    let message = message.split('\0').next().unwrap_or_default();
    let mut string = Room::<STRING>::new();
    let string = string.at();
    let allocator = 0_u8;
    // SAFETY: a string made of bytes that live until it is made, in room that is large enough.
    unsafe {
        (torch.make_string)(
            string,
            message.as_ptr().cast(),
            message.len(),
            (&raw const allocator).cast(),
        );
    }
    let location = SourceLocation {
        function: c"drystone_torch_alloc".as_ptr(),
        file: c"libdrystone.so".as_ptr(),
        line: 0,
    };
    // SAFETY: the constructor takes the string's content; the string object stays the caller's.
    unsafe { (torch.make_error)(object, location, string) };
    // SAFETY: the string was made above and is not used again.
    unsafe { (torch.drop_string)(string) };
    // SAFETY: an object with virtual functions starts with the pointer to its table.
    unsafe { object.cast::<*const c_void>().write(class.table.byte_add(TABLE_HEAD)) };
}

/// The function at a place in the virtual table of `object`.
///
/// # Safety
/// `object` has a table with that many entries, and `F` is the type of a function pointer that fits.
unsafe fn entry<F: Copy>(object: *const c_void, place: usize) -> F {
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    // SAFETY: the caller's promise.
    unsafe { object.cast::<*const F>().read().add(place).read() }
}

/// A symbol's address as a function pointer.
///
/// # Safety
/// `F` is the type of a function pointer that fits what is there.
unsafe fn function<F: Copy>(address: *mut c_void) -> F {
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    // SAFETY: the caller's promise; both are one word.
    unsafe { (&raw const address).cast::<F>().read() }
}
