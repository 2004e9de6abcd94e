//! Cuts the text of a target into tokens.

use std::borrow::Cow;

use super::error::{Problem, TargetError, shown};

/// The smallest parts of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name: of a fact, or of an operator such as `has`.
    Word(&'a str),
    /// A number or version without quotes.
    Version(&'a str),
    /// What stands between double quotes.
    Text(Cow<'a, str>),
    Symbol(Symbol),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    Equal,
    NotEqual,
    Like,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
    Not,
    Open,
    Close,
    OpenList,
    CloseList,
    Comma,
}

impl Symbol {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Like => "~",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::And => "&&",
            Self::Or => "||",
            Self::Not => "!",
            Self::Open => "(",
            Self::Close => ")",
            Self::OpenList => "[",
            Self::CloseList => "]",
            Self::Comma => ",",
        }
    }
}

impl Token<'_> {
    /// The token as messages name it.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Word(text) | Self::Version(text) => shown(text),
            Self::Text(text) => format!("{:?}", shown(text)),
            Self::Symbol(symbol) => symbol.as_str().to_owned(),
            Self::End => "the end".to_owned(),
        }
    }
}

/// Whether a number or version of these characters needs no quotes.
pub(super) fn is_bare_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(is_version_byte)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

fn is_version_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'+')
}

/// Gives the tokens of a text, one after the other.
pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The next token and the byte at which it begins.
    pub(super) fn next(&mut self) -> Result<(Token<'a>, usize), TargetError> {
        let rest = &self.text[self.at..];
        let rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let start = self.text.len() - rest.len();
        let mut characters = rest.chars();
        let Some(first) = characters.next() else {
            self.at = start;
            return Ok((Token::End, start));
        };
        let second = characters.next();

        let (token, length) = match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                let word = leading(rest, is_word_byte);
                (Token::Word(word), word.len())
            }
            '0'..='9' => {
                let version = leading(rest, is_version_byte);
                (Token::Version(version), version.len())
            }
            '"' => self.quoted(start)?,
            _ => {
                let (symbol, length) =
                    symbol(first, second).map_err(|problem| TargetError::new(self.text, start, problem))?;
                (Token::Symbol(symbol), length)
            }
        };
        self.at = start + length;
        Ok((token, start))
    }

    /// Reads the text whose first quote is at `start`, and gives its length with both quotes.
    fn quoted(&self, start: usize) -> Result<(Token<'a>, usize), TargetError> {
        let error = |at, problem| TargetError::new(self.text, at, problem);
        let body = &self.text[start + 1..];
        let mut unescaped: Option<String> = None;
        let mut characters = body.char_indices();
        while let Some((at, c)) = characters.next() {
            let literal = match c {
                '"' => {
                    let text = unescaped.map_or(Cow::Borrowed(&body[..at]), Cow::Owned);
                    return Ok((Token::Text(text), at + 2));
                }
                '\\' => {
                    let unescaped = unescaped.get_or_insert_with(|| body[..at].to_owned());
                    match characters.next() {
                        Some((_, c @ ('"' | '\\'))) => unescaped.push(c),
                        Some((at, c)) => return Err(error(start + 1 + at, Problem::UnknownEscape(c))),
                        None => break,
                    }
                    continue;
                }
                c if c.is_control() => return Err(error(start + 1 + at, Problem::ControlCharacter(c))),
                c => c,
            };
            if let Some(unescaped) = &mut unescaped {
                unescaped.push(literal);
            }
        }
        Err(error(start, Problem::UnclosedText))
    }
}

fn leading(text: &str, belongs: fn(u8) -> bool) -> &str {
    let length = text.bytes().position(|byte| !belongs(byte)).unwrap_or(text.len());
    &text[..length]
}

/// The symbol that begins with these characters, and its length in bytes.
fn symbol(first: char, second: Option<char>) -> Result<(Symbol, usize), Problem> {
    Ok(match (first, second) {
        ('=', Some('=')) => (Symbol::Equal, 2),
        ('!', Some('=')) => (Symbol::NotEqual, 2),
        ('<', Some('=')) => (Symbol::LessOrEqual, 2),
        ('>', Some('=')) => (Symbol::GreaterOrEqual, 2),
        ('&', Some('&')) => (Symbol::And, 2),
        ('|', Some('|')) => (Symbol::Or, 2),
        ('~', _) => (Symbol::Like, 1),
        ('<', _) => (Symbol::Less, 1),
        ('>', _) => (Symbol::Greater, 1),
        ('!', _) => (Symbol::Not, 1),
        ('(', _) => (Symbol::Open, 1),
        (')', _) => (Symbol::Close, 1),
        ('[', _) => (Symbol::OpenList, 1),
        (']', _) => (Symbol::CloseList, 1),
        (',', _) => (Symbol::Comma, 1),
        ('=', _) => return Err(Problem::HalfOperator { found: '=', meant: "==" }),
        ('&', _) => return Err(Problem::HalfOperator { found: '&', meant: "&&" }),
        ('|', _) => return Err(Problem::HalfOperator { found: '|', meant: "||" }),
        (other, _) => return Err(Problem::UnexpectedCharacter(other)),
    })
}
