//! Reads pickles (protocols 2 to 5) as plain data, and writes them. Nothing is imported, called or
//! looked up.

mod machine;
mod opcode;
#[cfg(test)]
mod tests;
mod text;
mod writer;

pub(crate) use machine::read;
pub(crate) use writer::Pickler;
