//! The detection of a rule: its selections and the condition that joins them.

use yaml_rust2::Yaml;

use super::{Comparison, Comparisons, FIELDS, Kind, scalar, scalars};

/// Terms that a condition may become when it is written out.
const MOST_TERMS: usize = 64;

/// One way in which a condition holds: everything of `when`, and nothing of `unless`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) when: Comparisons,
    /// None of these may hold.
    pub(super) unless: Vec<Comparisons>,
}

/// A selection by its name: one of these must hold.
type Selection = (String, Vec<Comparisons>);

/// The condition of a detection, written out.
pub(super) fn terms(detection: &Yaml) -> Result<Vec<Term>, Vec<String>> {
    let Some(all) = detection.as_hash() else { return Err(vec!["detection: is missing".to_owned()]) };
    let mut selections: Vec<Selection> = Vec::new();
    let mut condition = None;
    let mut problems = Vec::new();
    for (key, value) in all {
        let name = scalar(key).unwrap_or_default();
        match name.as_str() {
            "condition" => match scalars(value).as_deref() {
                Some([one]) => condition = Some(one.clone()),
                // Several conditions: one of them must hold.
                Some(several) => condition = Some(format!("({})", several.join(") or ("))),
                None => problems.push("detection.condition: is not a text".to_owned()),
            },
            "timeframe" => problems.push("detection.timeframe: is not supported".to_owned()),
            _ => match selection(&format!("detection.{name}"), value) {
                Ok(alternatives) => selections.push((name, alternatives)),
                Err(more) => problems.extend(more),
            },
        }
    }
    let Some(condition) = condition else {
        problems.push("detection.condition: is missing".to_owned());
        return Err(problems);
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let wrong = |problem: String| vec![format!("detection.condition: {problem}")];
    let expression = Reader::new(&condition, &selections).read().map_err(wrong)?;
    written_out(&expression, false, &selections).map_err(wrong)
}

/// A selection: a map of fields, or a list of such maps.
fn selection(place: &str, value: &Yaml) -> Result<Vec<Comparisons>, Vec<String>> {
    match value {
        Yaml::Hash(fields) => {
            let mut all = Comparisons::new();
            let mut problems = Vec::new();
            for (key, value) in fields {
                match field(place, &scalar(key).unwrap_or_default(), value) {
                    Ok(more) => all.extend(more),
                    Err(problem) => problems.push(problem),
                }
            }
            if problems.is_empty() { Ok(vec![all]) } else { Err(problems) }
        }
        Yaml::Array(maps) if maps.iter().all(|map| map.as_hash().is_some()) && !maps.is_empty() => {
            let mut all = Vec::new();
            for map in maps {
                all.extend(selection(place, map)?);
            }
            Ok(all)
        }
        _ => Err(vec![format!("{place}: words without a field are not supported")]),
    }
}

/// One field with its modifiers.
fn field(place: &str, key: &str, value: &Yaml) -> Result<Comparisons, String> {
    let wrong = |why: String| format!("{place}.{key}: {why}");
    let mut parts = key.split('|');
    let name = parts.next().unwrap_or_default();
    let modifiers: Vec<&str> = parts.collect();
    let values =
        scalars(value).ok_or_else(|| wrong("null and nested values are not supported".to_owned()))?;
    if values.is_empty() {
        return Err(wrong("an empty list matches nothing".to_owned()));
    }
    // What we keep of connections are those of TCP that this host opened.
    match (name, values.as_slice()) {
        ("Initiated", [one]) if one == "true" && modifiers.is_empty() => return Ok(Vec::new()),
        ("Protocol", [one]) if one.eq_ignore_ascii_case("tcp") && modifiers.is_empty() => {
            return Ok(Vec::new());
        }
        _ => {}
    }
    let known = FIELDS.iter().find(|(theirs, ..)| *theirs == name);
    let Some((_, field, kind)) = known.copied() else {
        return Err(wrong("the field is not supported".to_owned()));
    };
    let mut all = false;
    let mut form: Option<&str> = None;
    for modifier in &modifiers {
        match (*modifier, kind) {
            ("all", Kind::Text) => all = true,
            ("contains" | "startswith" | "endswith", Kind::Text)
            | ("cidr", Kind::Network)
            | ("lt" | "lte" | "gt" | "gte", Kind::Number)
                if form.is_none() =>
            {
                form = Some(modifier);
            }
            (other, _) => return Err(wrong(format!("the modifier {other} is not supported here"))),
        }
    }
    let one = |text: &String| -> Result<String, String> {
        if kind == Kind::Text && (text.contains("\\*") || text.contains("\\?")) {
            return Err(wrong("a literal wildcard is not supported".to_owned()));
        }
        // A backslash before anything else stands for itself; two stand for one.
        let text = text.replace("\\\\", "\\");
        let text = match form {
            Some("contains") => format!("*{text}*"),
            Some("startswith") => format!("{text}*"),
            Some("endswith") => format!("*{text}"),
            Some("lt") => format!("<{text}"),
            Some("lte") => format!("<={text}"),
            Some("gt") => format!(">{text}"),
            Some("gte") => format!(">={text}"),
            _ => text,
        };
        if text.starts_with('$') {
            return Err(wrong("a value that begins with $ is not supported".to_owned()));
        }
        Ok(text)
    };
    let values = values.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(if all {
        values.into_iter().map(|value| Comparison { field, values: vec![value] }).collect()
    } else {
        vec![Comparison { field, values }]
    })
}

#[derive(Debug)]
enum Expression {
    Is(usize),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

/// Reads a condition: `not` binds closest, then `and`, then `or`.
struct Reader<'a> {
    words: Vec<String>,
    at: usize,
    selections: &'a [Selection],
}

impl<'a> Reader<'a> {
    fn new(text: &str, selections: &'a [Selection]) -> Self {
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('|', " | ");
        Self { words: spaced.split_whitespace().map(str::to_owned).collect(), at: 0, selections }
    }

    fn next(&mut self) -> Option<String> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word
    }

    fn takes(&mut self, word: &str) -> bool {
        let is = self.words.get(self.at).is_some_and(|next| next.eq_ignore_ascii_case(word));
        self.at += usize::from(is);
        is
    }

    fn read(&mut self) -> Result<Expression, String> {
        let all = self.either(0)?;
        match self.next() {
            None => Ok(all),
            Some(word) if word == "|" => Err("aggregations (|) are not supported".to_owned()),
            Some(word) => Err(format!("unexpected {word:?}")),
        }
    }

    fn either(&mut self, depth: usize) -> Result<Expression, String> {
        let mut all = vec![self.both(depth)?];
        while self.takes("or") {
            all.push(self.both(depth)?);
        }
        Ok(Expression::Or(all))
    }

    fn both(&mut self, depth: usize) -> Result<Expression, String> {
        let mut all = vec![self.one(depth)?];
        while self.takes("and") {
            all.push(self.one(depth)?);
        }
        Ok(Expression::And(all))
    }

    fn one(&mut self, depth: usize) -> Result<Expression, String> {
        const DEEPEST: usize = 32;
        if depth > DEEPEST {
            return Err("it is nested too deeply".to_owned());
        }
        if self.takes("not") {
            return Ok(Expression::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes("(") {
            let inner = self.either(depth + 1)?;
            return if self.takes(")") { Ok(inner) } else { Err("a parenthesis is not closed".to_owned()) };
        }
        let word = self.next().ok_or("it ends too early")?;
        let is_count = word == "1" || word.eq_ignore_ascii_case("all");
        if is_count && self.takes("of") {
            let pattern = self.next().ok_or("it ends after \"of\"")?;
            let fits = |name: &str| match pattern.as_str() {
                "them" => !name.starts_with('_'),
                pattern => vigie_tree::matches(pattern.as_bytes(), name.as_bytes()),
            };
            let named = self.selections.iter().enumerate().filter(|(_, (name, _))| fits(name));
            let all: Vec<Expression> = named.map(|(number, _)| Expression::Is(number)).collect();
            if all.is_empty() {
                return Err(format!("no selection matches {pattern}"));
            }
            return Ok(if word == "1" { Expression::Or(all) } else { Expression::And(all) });
        }
        if self.words.get(self.at).is_some_and(|next| next == "of") {
            return Err(format!("\"{word} of\" is not supported: only 1 and all are"));
        }
        let number = self.selections.iter().position(|(name, _)| *name == word);
        number.map(Expression::Is).ok_or_else(|| format!("unknown selection {word:?}"))
    }
}

/// The expression, or its contrary, as terms of which one must hold.
fn written_out(
    expression: &Expression,
    contrary: bool,
    selections: &[Selection],
) -> Result<Vec<Term>, String> {
    let all = match (expression, contrary) {
        (Expression::Is(number), false) => {
            let one = |when: &Comparisons| Term { when: when.clone(), unless: Vec::new() };
            selections[*number].1.iter().map(one).collect()
        }
        (Expression::Is(number), true) => {
            vec![Term { when: Comparisons::new(), unless: selections[*number].1.clone() }]
        }
        (Expression::Not(inner), contrary) => written_out(inner, !contrary, selections)?,
        (Expression::Or(all), false) | (Expression::And(all), true) => {
            let mut terms = Vec::new();
            for one in all {
                terms.extend(written_out(one, contrary, selections)?);
            }
            terms
        }
        (Expression::And(all), false) | (Expression::Or(all), true) => {
            let mut terms = vec![Term::default()];
            for one in all {
                let more = written_out(one, contrary, selections)?;
                if terms.len() * more.len() > MOST_TERMS {
                    return Err(format!("it expands to more than {MOST_TERMS} cases"));
                }
                let join = |term: &Term| {
                    let term = term.clone();
                    more.iter().map(move |more| {
                        let mut joined = term.clone();
                        joined.when.extend(more.when.iter().cloned());
                        joined.unless.extend(more.unless.iter().cloned());
                        joined
                    })
                };
                terms = terms.iter().flat_map(join).collect();
            }
            terms
        }
    };
    if all.len() > MOST_TERMS {
        return Err(format!("it expands to more than {MOST_TERMS} cases"));
    }
    Ok(all)
}

/// Whether every case of a condition says what must hold, and not only what must not.
pub(super) fn is_positive(terms: &[Term]) -> bool {
    terms.iter().all(|term| !term.when.is_empty())
        && terms.iter().flat_map(|term| &term.unless).all(|one| !one.is_empty())
}
