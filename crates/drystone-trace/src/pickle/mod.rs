//! Reads pickles (protocols 2 to 5) as plain data, and writes them. Nothing is imported, called or
//! looked up.
//!
//! Values lie in one [`Arena`]: vectors of numbers and of container parts, where a value is a
//! 32-bit [`Word`]: 4 bits of kind, 28 bits of content or index. Shared values are the same index;
//! a value that contains itself is an index that leads back. Nothing here recurses, dropping
//! included, and strings stay in the text.

mod arena;
mod machine;
mod opcode;
#[cfg(test)]
mod tests;
mod text;
mod writer;

pub(crate) use arena::{Arena, NodeId, StrId, Value, Word};
pub(crate) use machine::read;
pub(crate) use writer::Pickler;
