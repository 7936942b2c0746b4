//! The form of a configuration string: words, and the marks `,` `:` `[` `]` between them.
//!
//! As in torch's tokenizer, white space counts nowhere, not even inside a word: `max _split` is
//! `max_split`. A comma may end the string or a list; it may not begin one, nor stand twice.

use std::iter::Peekable;

use super::error::ConfigError;
use super::key::{self, KeyInfo};

/// A value as written, before its key gives it a meaning.
#[derive(Debug)]
pub(super) struct Value {
    /// The text, without white space, for error messages.
    pub(super) text: String,
    /// The byte at which it starts.
    pub(super) position: usize,
    pub(super) form: Form,
}

/// The two forms of a value.
#[derive(Debug)]
pub(super) enum Form {
    /// One word, which is [`Value::text`].
    Word,
    /// `[a:b,c:d]` as its pairs.
    Pairs(Vec<(String, String)>),
}

#[derive(Debug, PartialEq)]
enum Kind {
    Word(String),
    Mark(char),
}

#[derive(Debug)]
struct Token {
    kind: Kind,
    position: usize,
}

/// The settings of a whole string, in order.
pub(super) fn settings(text: &str) -> Result<Vec<(&'static KeyInfo, Value)>, ConfigError> {
    let mut tokens = Tokens::new(text);
    let mut settings = Vec::new();
    while !tokens.at_end() {
        let (key, position) = tokens.word("a key")?;
        if key.contains('=') {
            let equals = text[position..].find('=').map_or(position, |offset| position + offset);
            return Err(ConfigError::Syntax {
                expected: "`:` between key and value",
                found: "`=`".to_owned(),
                position: Some(equals),
            });
        }
        let info = key::find(&key, Some(position))?;
        tokens.mark(':', "`:` after the key")?;
        settings.push((info, tokens.value()?));
        if !tokens.at_end() {
            tokens.mark(',', "`,` after the value")?;
        }
    }
    Ok(settings)
}

/// The value of one key, given alone.
pub(super) fn lone_value(text: &str) -> Result<Value, ConfigError> {
    let mut tokens = Tokens::new(text);
    let value = tokens.value()?;
    if tokens.at_end() {
        Ok(value)
    } else {
        Err(tokens.unexpected("one value and nothing after it"))
    }
}

/// The tokens of a string that have not been read.
struct Tokens {
    rest: Peekable<std::vec::IntoIter<Token>>,
    /// The length of the string in bytes: where the end is.
    end: usize,
}

impl Tokens {
    fn new(text: &str) -> Self {
        let mut tokens: Vec<Token> = Vec::new();
        // Whether the last token is a word that the next letter belongs to.
        let mut open = false;
        for (position, letter) in text.char_indices() {
            match letter {
                ',' | ':' | '[' | ']' => {
                    tokens.push(Token { kind: Kind::Mark(letter), position });
                    open = false;
                }
                // C's isspace in the "C" locale; Rust's ASCII white space lacks the vertical tab.
                ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r' => {}
                _ => match tokens.last_mut() {
                    Some(Token { kind: Kind::Word(word), .. }) if open => word.push(letter),
                    _ => {
                        tokens.push(Token { kind: Kind::Word(letter.into()), position });
                        open = true;
                    }
                },
            }
        }
        Self { rest: tokens.into_iter().peekable(), end: text.len() }
    }

    fn at_end(&mut self) -> bool {
        self.rest.peek().is_none()
    }

    fn next_is(&mut self, mark: char) -> bool {
        self.rest.peek().is_some_and(|token| token.kind == Kind::Mark(mark))
    }

    /// The error that the next token is not what was expected.
    fn unexpected(&mut self, expected: &'static str) -> ConfigError {
        let (found, position) = match self.rest.peek() {
            None => ("the end".to_owned(), self.end),
            Some(Token { kind: Kind::Word(word), position }) => (format!("`{word}`"), *position),
            Some(Token { kind: Kind::Mark(mark), position }) => (format!("`{mark}`"), *position),
        };
        ConfigError::Syntax { expected, found, position: Some(position) }
    }

    fn word(&mut self, expected: &'static str) -> Result<(String, usize), ConfigError> {
        match self.rest.next_if(|token| matches!(token.kind, Kind::Word(_))) {
            Some(Token { kind: Kind::Word(word), position }) => Ok((word, position)),
            _ => Err(self.unexpected(expected)),
        }
    }

    /// Reads one mark and returns its position.
    fn mark(&mut self, mark: char, expected: &'static str) -> Result<usize, ConfigError> {
        match self.rest.next_if(|token| token.kind == Kind::Mark(mark)) {
            Some(token) => Ok(token.position),
            None => Err(self.unexpected(expected)),
        }
    }

    fn value(&mut self) -> Result<Value, ConfigError> {
        if !self.next_is('[') {
            let (text, position) = self.word("a value")?;
            return Ok(Value { text, position, form: Form::Word });
        }
        let position = self.mark('[', "`[`")?;
        let mut pairs = Vec::new();
        while !self.next_is(']') {
            let (left, _) = self.word("an interval or `]`")?;
            self.mark(':', "`:` after the interval")?;
            let (right, _) = self.word("a number of divisions")?;
            pairs.push((left, right));
            if !self.next_is(']') {
                self.mark(',', "`,` or `]` in the list")?;
            }
        }
        self.mark(']', "`]`")?;
        let inner: Vec<_> = pairs.iter().map(|(left, right)| format!("{left}:{right}")).collect();
        Ok(Value { text: format!("[{}]", inner.join(",")), position, form: Form::Pairs(pairs) })
    }
}
