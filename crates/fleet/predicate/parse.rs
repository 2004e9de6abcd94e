//! Reads the text of a target.
//!
//! ```text
//! either     = both { "||" both }
//! both       = unary { "&&" unary }
//! unary      = "!" unary | "(" either ")" | "all" | comparison
//! comparison = fact operator value
//! ```
//!
//! Only `unary` goes deeper, and counts. `!` does not stand right before a comparison: some would read
//! `!os == "linux"` as other languages do, where the `!` belongs to `os` alone.

use std::net::IpAddr;

use vigie_host::AddressRange;

use super::error::{Problem, TargetError, shown};
use super::glob::Glob;
use super::token::{Symbol, Token, Tokens};
use super::version;
use super::{AddressTest, ListFact, MAX_DEPTH, MAX_TEXT_BYTES, Node, Order, TextFact, TextTest};
use crate::facts::is_tag_name;

/// Reads a whole text.
pub(super) fn parse(text: &str) -> Result<Node, TargetError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(TargetError::new(text, 0, Problem::TooLong(text.len())));
    }
    let mut tokens = Tokens::new(text);
    let (token, at) = tokens.next()?;
    if token == Token::End {
        return Err(TargetError::new(text, 0, Problem::Empty));
    }
    let mut parser = Parser { tokens, token, at };
    let node = parser.either(0)?;
    match &parser.token {
        Token::End => Ok(node),
        found => Err(parser.error(joint_problem(found, Problem::ExpectedEnd))),
    }
}

/// A comparison's left side.
enum Fact {
    Text(TextFact),
    List(ListFact),
    Addresses,
}

impl Fact {
    fn find(name: &str) -> Result<Self, Problem> {
        Ok(match name {
            "agent" => Self::Text(TextFact::Agent),
            "hostname" => Self::Text(TextFact::Hostname),
            "os" => Self::Text(TextFact::Os),
            "os.id" => Self::Text(TextFact::OsId),
            "os.version" => Self::Text(TextFact::OsVersion),
            "arch" => Self::Text(TextFact::Arch),
            "kernel" => Self::Text(TextFact::Kernel),
            "agent.version" => Self::Text(TextFact::AgentVersion),
            "module" => Self::List(ListFact::Module),
            "group" => Self::List(ListFact::Group),
            "addr" => Self::Addresses,
            _ => match name.strip_prefix("tag.") {
                Some(tag) if is_tag_name(tag) => Self::Text(TextFact::Tag(tag.into())),
                Some(tag) => return Err(Problem::BadTagName(shown(tag))),
                None => return Err(Problem::UnknownFact(shown(name))),
            },
        })
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "one text",
            Self::List(_) => "a list",
            Self::Addresses => "a list of addresses",
        }
    }

    fn takes(&self) -> &'static str {
        match self {
            Self::Text(_) => "==, !=, ~, <, <=, >, >= or in",
            Self::List(_) => "has",
            Self::Addresses => "has or cidr",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Like,
    Order(Order),
    In,
    Has,
    Cidr,
}

impl Operator {
    fn find(token: &Token<'_>) -> Option<Self> {
        Some(match token {
            Token::Symbol(Symbol::Equal) => Self::Equal,
            Token::Symbol(Symbol::NotEqual) => Self::NotEqual,
            Token::Symbol(Symbol::Like) => Self::Like,
            Token::Symbol(Symbol::Less) => Self::Order(Order::Less),
            Token::Symbol(Symbol::LessOrEqual) => Self::Order(Order::LessOrEqual),
            Token::Symbol(Symbol::Greater) => Self::Order(Order::Greater),
            Token::Symbol(Symbol::GreaterOrEqual) => Self::Order(Order::GreaterOrEqual),
            Token::Word("in") => Self::In,
            Token::Word("has") => Self::Has,
            Token::Word("cidr") => Self::Cidr,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Like => "~",
            Self::Order(order) => order.as_str(),
            Self::In => "in",
            Self::Has => "has",
            Self::Cidr => "cidr",
        }
    }
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    /// The token that is looked at, and the byte at which it begins.
    token: Token<'a>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, problem: Problem) -> TargetError {
        self.error_at(self.at, problem)
    }

    fn error_at(&self, at: usize, problem: Problem) -> TargetError {
        TargetError::new(self.tokens.text(), at, problem)
    }

    /// Takes the token that is looked at, and its place.
    fn take(&mut self) -> Result<(Token<'a>, usize), TargetError> {
        let (token, at) = self.tokens.next()?;
        Ok((std::mem::replace(&mut self.token, token), std::mem::replace(&mut self.at, at)))
    }

    /// Goes on when the symbol stands here.
    fn took(&mut self, symbol: Symbol) -> Result<bool, TargetError> {
        let here = self.token == Token::Symbol(symbol);
        if here {
            self.take()?;
        }
        Ok(here)
    }

    fn either(&mut self, depth: usize) -> Result<Node, TargetError> {
        let first = self.both(depth)?;
        if self.token != Token::Symbol(Symbol::Or) {
            return Ok(first);
        }
        let mut nodes = Vec::new();
        let mut next = first;
        loop {
            // (a || b) || c is a || b || c.
            match next {
                Node::Or(inner) => nodes.extend(inner),
                node => nodes.push(node),
            }
            if !self.took(Symbol::Or)? {
                return Ok(Node::Or(nodes));
            }
            next = self.both(depth)?;
        }
    }

    fn both(&mut self, depth: usize) -> Result<Node, TargetError> {
        let first = self.unary(depth)?;
        if self.token != Token::Symbol(Symbol::And) {
            return Ok(first);
        }
        let mut nodes = Vec::new();
        let mut next = first;
        loop {
            match next {
                Node::And(inner) => nodes.extend(inner),
                node => nodes.push(node),
            }
            if !self.took(Symbol::And)? {
                return Ok(Node::And(nodes));
            }
            next = self.unary(depth)?;
        }
    }

    fn unary(&mut self, depth: usize) -> Result<Node, TargetError> {
        if matches!(self.token, Token::Symbol(Symbol::Not | Symbol::Open)) && depth == MAX_DEPTH {
            return Err(self.error(Problem::TooDeep));
        }
        if self.took(Symbol::Not)? {
            if matches!(self.token, Token::Word(name) if name != "all") {
                return Err(self.error(Problem::BareNot));
            }
            return Ok(Node::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.took(Symbol::Open)? {
            let node = self.either(depth + 1)?;
            if !self.took(Symbol::Close)? {
                return Err(self.error(joint_problem(&self.token, Problem::ExpectedClosing)));
            }
            return Ok(node);
        }
        match self.token {
            Token::Word("all") => {
                self.take()?;
                Ok(Node::All)
            }
            Token::Word("not") => Err(self.error(Problem::WordForSymbol { found: "not", meant: "!" })),
            Token::Word(name) => self.comparison(name),
            _ => Err(self.error(Problem::ExpectedComparison(self.token.described()))),
        }
    }

    fn comparison(&mut self, name: &str) -> Result<Node, TargetError> {
        let fact = Fact::find(name).map_err(|problem| self.error(problem))?;
        self.take()?;
        let Some(operator) = Operator::find(&self.token) else {
            let found = self.token.described();
            return Err(self.error(Problem::ExpectedOperator {
                fact: shown(name),
                found,
                takes: fact.takes(),
            }));
        };
        let (_, operator_at) = self.take()?;
        let (kind, takes) = (fact.kind(), fact.takes());
        let wrong = || Problem::WrongOperator { fact: shown(name), kind, operator: operator.as_str(), takes };
        match fact {
            Fact::Text(fact) => match self.text_test(operator)? {
                Some(test) => Ok(Node::Text(fact, test)),
                None => Err(self.error_at(operator_at, wrong())),
            },
            Fact::List(fact) if operator == Operator::Has => Ok(Node::Has(fact, self.value(operator)?.0)),
            Fact::Addresses if operator == Operator::Has => {
                let (value, at) = self.value(operator)?;
                let address: Result<IpAddr, _> = value.parse();
                let address = address.map_err(|_| self.error_at(at, Problem::NotAnAddress(shown(&value))))?;
                Ok(Node::Addresses(AddressTest::Has(address.to_canonical())))
            }
            Fact::Addresses if self.is_range(operator)? => {
                let (value, at) = self.value(Operator::Cidr)?;
                let range = AddressRange::parse(&value)
                    .map_err(|_| self.error_at(at, Problem::NotARange(shown(&value))))?;
                Ok(Node::Addresses(AddressTest::In(range)))
            }
            Fact::List(_) | Fact::Addresses => Err(self.error_at(operator_at, wrong())),
        }
    }

    /// Whether a range follows: `cidr`, or `in cidr`, which is the same.
    fn is_range(&mut self, operator: Operator) -> Result<bool, TargetError> {
        let long_form = operator == Operator::In && self.token == Token::Word("cidr");
        if long_form {
            self.take()?;
        }
        Ok(long_form || operator == Operator::Cidr)
    }

    /// What follows an operator of a fact that is one text; `None` when such a fact does not take it.
    fn text_test(&mut self, operator: Operator) -> Result<Option<TextTest>, TargetError> {
        Ok(Some(match operator {
            Operator::Equal => TextTest::Equal(self.value(operator)?.0),
            Operator::NotEqual => TextTest::NotEqual(self.value(operator)?.0),
            Operator::Like => {
                let (value, at) = self.value(operator)?;
                let glob = Glob::new(&value).ok_or_else(|| self.error_at(at, Problem::PatternTooLong))?;
                TextTest::Like(glob)
            }
            Operator::Order(order) => {
                let (value, at) = self.value(operator)?;
                if !version::is_version(&value) {
                    return Err(self.error_at(at, Problem::NotAVersion(shown(&value))));
                }
                TextTest::Order(order, value)
            }
            Operator::In => TextTest::In(self.list()?),
            Operator::Has | Operator::Cidr => return Ok(None),
        }))
    }

    fn value(&mut self, operator: Operator) -> Result<(Box<str>, usize), TargetError> {
        let value = match &self.token {
            Token::Text(text) => Box::from(&**text),
            Token::Version(text) => Box::from(*text),
            found => {
                let found = found.described();
                return Err(self.error(Problem::ExpectedValue { operator: operator.as_str(), found }));
            }
        };
        let (_, at) = self.take()?;
        Ok((value, at))
    }

    fn list(&mut self) -> Result<Box<[Box<str>]>, TargetError> {
        if !self.took(Symbol::OpenList)? {
            return Err(self.error(Problem::ExpectedList(self.token.described())));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value(Operator::In)?.0);
            if self.took(Symbol::CloseList)? {
                return Ok(values.into());
            }
            if !self.took(Symbol::Comma)? {
                return Err(self.error(Problem::ExpectedListEnd(self.token.described())));
            }
        }
    }
}

/// What is wrong where `&&` or `||` could stand.
fn joint_problem(found: &Token<'_>, otherwise: fn(String) -> Problem) -> Problem {
    match found {
        Token::Word("and") => Problem::WordForSymbol { found: "and", meant: "&&" },
        Token::Word("or") => Problem::WordForSymbol { found: "or", meant: "||" },
        other => otherwise(other.described()),
    }
}
