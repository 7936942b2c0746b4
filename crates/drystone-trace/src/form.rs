//! The two forms in which a snapshot is written: JSON here, pickles in `pickle::writer`.

use std::io::{self, Write};

/// Values written one after the other into a document. A dict is `begin_dict`, then for each entry
/// `key`, a value and `end_entry`, then `end_dict`; a list is `begin_list`, then for each item
/// `item`, a value and `end_item`, then `end_list`.
pub(crate) trait Form {
    fn bool(&mut self, value: bool) -> io::Result<()>;
    fn none(&mut self) -> io::Result<()>;
    fn int(&mut self, value: i128) -> io::Result<()>;
    fn real(&mut self, value: f64) -> io::Result<()>;
    fn text(&mut self, text: &str) -> io::Result<()>;
    fn pair(&mut self, first: u64, second: u64) -> io::Result<()>;
    fn begin_dict(&mut self) -> io::Result<()>;
    fn key(&mut self, key: &str) -> io::Result<()>;
    fn end_entry(&mut self) -> io::Result<()>;
    fn end_dict(&mut self) -> io::Result<()>;
    fn begin_list(&mut self) -> io::Result<()>;
    fn item(&mut self) -> io::Result<()>;
    fn end_item(&mut self) -> io::Result<()>;
    fn end_list(&mut self) -> io::Result<()>;
    /// Writes the list that was kept under `name` once more, as the same object; false if the form
    /// cannot or there is none.
    fn same_list(&mut self, name: u32) -> io::Result<bool>;
    /// Keeps the list that was just begun under `name`.
    fn keep_list(&mut self, name: u32) -> io::Result<()>;
}

/// JSON, without white space. Numbers that are not finite, which JSON lacks, are null.
pub(crate) struct Json<W> {
    out: W,
    /// Whether the container written into has nothing yet.
    first: bool,
}

impl<W: Write> Json<W> {
    pub(crate) fn new(out: W) -> Self {
        Json { out, first: true }
    }

    fn separate(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.first, false) {
            self.out.write_all(b",")?;
        }
        Ok(())
    }

    fn begin(&mut self, bracket: u8) -> io::Result<()> {
        self.first = true;
        self.out.write_all(&[bracket])
    }

    fn end(&mut self, bracket: u8) -> io::Result<()> {
        self.first = false;
        self.out.write_all(&[bracket])
    }
}

impl<W: Write> Form for Json<W> {
    fn bool(&mut self, value: bool) -> io::Result<()> {
        write!(self.out, "{value}")
    }

    fn none(&mut self) -> io::Result<()> {
        self.out.write_all(b"null")
    }

    fn int(&mut self, value: i128) -> io::Result<()> {
        write!(self.out, "{value}")
    }

    fn real(&mut self, value: f64) -> io::Result<()> {
        if value.is_finite() { write!(self.out, "{value:?}") } else { self.none() }
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(b"\"")?;
        for c in text.chars() {
            match c {
                '"' | '\\' => write!(self.out, "\\{c}")?,
                '\0'..'\u{20}' => write!(self.out, "\\u{:04x}", c as u32)?,
                _ => write!(self.out, "{c}")?,
            }
        }
        self.out.write_all(b"\"")
    }

    fn pair(&mut self, first: u64, second: u64) -> io::Result<()> {
        write!(self.out, "[{first},{second}]")
    }

    fn begin_dict(&mut self) -> io::Result<()> {
        self.begin(b'{')
    }

    fn key(&mut self, key: &str) -> io::Result<()> {
        self.separate()?;
        self.text(key)?;
        self.out.write_all(b":")
    }

    fn end_entry(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn end_dict(&mut self) -> io::Result<()> {
        self.end(b'}')
    }

    fn begin_list(&mut self) -> io::Result<()> {
        self.begin(b'[')
    }

    fn item(&mut self) -> io::Result<()> {
        self.separate()
    }

    fn end_item(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn end_list(&mut self) -> io::Result<()> {
        self.end(b']')
    }

    fn same_list(&mut self, _name: u32) -> io::Result<bool> {
        Ok(false)
    }

    fn keep_list(&mut self, _name: u32) -> io::Result<()> {
        Ok(())
    }
}
