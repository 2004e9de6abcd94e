//! Makes rules of ours of rules in Sigma's form: for programs that run and connections, and groups of paths for fswatch
//! of rules about files. What has no counterpart here is refused with file and place; a rule is taken whole or not at
//! all.

mod condition;

use std::fmt::Write as _;

use yaml_rust2::{Yaml, YamlLoader};

use self::condition::Term;
use crate::rules;

/// Largest file that is read. What is nested as deeply as it can be in one still fits the stack.
const LONGEST: usize = 64 * 1024;

/// What was made of some files.
#[derive(Debug, Default)]
pub struct Imported {
    /// Rules of the module `events`, as TOML; empty when there are none.
    pub rules: String,
    /// Groups of paths for fswatch, as TOML; empty when there are none.
    pub paths: String,
    /// How many rules of Sigma were taken.
    pub taken: usize,
    /// What was refused: file, place and reason.
    pub refused: Vec<String>,
}

/// What a field of Sigma is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Network,
}

/// Fields of Sigma, and ours.
const FIELDS: [(&str, &str, Kind); 14] = [
    ("Image", "exe.path", Kind::Text),
    ("CommandLine", "command", Kind::Text),
    ("ParentImage", "parent.path", Kind::Text),
    ("ParentCommandLine", "parent.command", Kind::Text),
    ("CurrentDirectory", "cwd", Kind::Text),
    ("UserId", "uid", Kind::Number),
    ("LogonId", "login", Kind::Text),
    ("DestinationIp", "remote", Kind::Network),
    ("DestinationPort", "remote_port", Kind::Number),
    ("SourceIp", "local", Kind::Network),
    ("SourcePort", "local_port", Kind::Number),
    ("dst_ip", "remote", Kind::Network),
    ("dst_port", "remote_port", Kind::Number),
    ("TargetFilename", "TargetFilename", Kind::Text),
];

/// One field with what it is compared with: all lists must have one that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Comparison {
    field: &'static str,
    values: Vec<String>,
}

/// What must hold together.
type Comparisons = Vec<Comparison>;

/// Text of a YAML scalar.
fn scalar(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        Yaml::Boolean(is) => Some(is.to_string()),
        _ => None,
    }
}

/// One text or a list of them.
fn scalars(value: &Yaml) -> Option<Vec<String>> {
    match value {
        Yaml::Array(all) => all.iter().map(scalar).collect(),
        one => scalar(one).map(|one| vec![one]),
    }
}

impl Imported {
    /// Adds the rules of one file. `name` is the file's: rules are called after it.
    pub fn add(&mut self, name: &str, text: &str) {
        if text.len() > LONGEST {
            return self.refused.push(format!("{name}: exceeds {LONGEST} bytes, the limit for a rule"));
        }
        let documents = match YamlLoader::load_from_str(text) {
            Ok(documents) => documents,
            Err(error) => return self.refused.push(format!("{name}: not YAML: {error}")),
        };
        if documents.is_empty() {
            self.refused.push(format!("{name}: contains no rule"));
        }
        let several = documents.len() > 1;
        for (number, document) in documents.iter().enumerate() {
            let place = if several { format!("{name}[{}]", number + 1) } else { name.to_owned() };
            match self.one(&place, document) {
                Ok(()) => self.taken += 1,
                Err(problems) => {
                    self.refused.extend(problems.into_iter().map(|problem| format!("{place}: {problem}")));
                }
            }
        }
    }

    fn one(&mut self, place: &str, document: &Yaml) -> Result<(), Vec<String>> {
        let one = |problem: &str| vec![problem.to_owned()];
        for key in ["correlation", "filter", "action"] {
            if !document[key].is_badvalue() {
                return Err(vec![format!("{key}: is not supported")]);
            }
        }
        let title = scalar(&document["title"]).ok_or_else(|| one("title: is missing"))?;
        let product = document["logsource"]["product"].as_str();
        if product.is_some_and(|product| product != "linux") {
            return Err(vec![format!("logsource.product: {product:?} is not linux")]);
        }
        for key in ["service", "definition"] {
            if key == "service" && !document["logsource"][key].is_badvalue() {
                return Err(vec![format!("logsource.{key}: is not supported")]);
            }
        }
        let category = document["logsource"]["category"].as_str().unwrap_or_default();
        let terms = condition::terms(&document["detection"])?;
        if !condition::is_positive(&terms) {
            return Err(one("detection.condition: one of its cases contains only exclusions"));
        }
        let header = Header { place, title, document };
        match category {
            "process_creation" => self.event(&header, "exec", &terms),
            "network_connection" => self.event(&header, "connect", &terms),
            "file_event" | "file_change" | "file_delete" => self.paths(&header, &terms),
            other => Err(vec![format!(
                "logsource.category: {other:?} is not one of process_creation, network_connection, file_event"
            )]),
        }
    }

    /// Rules about events: one for each set of exceptions.
    fn event(&mut self, header: &Header<'_>, kind: &str, terms: &[Term]) -> Result<(), Vec<String>> {
        let file_field = |one: &Comparison| one.field == "TargetFilename";
        let all = terms.iter().flat_map(|term| term.when.iter().chain(term.unless.iter().flatten()));
        if all.into_iter().any(file_field) {
            return Err(vec!["TargetFilename: is only for rules about files".to_owned()]);
        }
        let mut sets: Vec<(&Vec<Comparisons>, Vec<&Comparisons>)> = Vec::new();
        for term in terms {
            match sets.iter_mut().find(|(unless, _)| *unless == &term.unless) {
                Some((_, when)) => when.push(&term.when),
                None => sets.push((&term.unless, vec![&term.when])),
            }
        }
        let severity = header.severity()?;
        let mut text = String::new();
        let several = sets.len() > 1;
        for (number, (unless, when)) in sets.iter().enumerate() {
            let suffix = if several { format!("-{}", number + 1) } else { String::new() };
            text.push_str(&header.comment());
            let list = |tables: Vec<&Comparisons>| {
                tables.into_iter().map(|table| format!("  {},\n", inline(table))).collect::<String>()
            };
            let _ = write!(
                text,
                "[[rule]]\nid = {}\ntitle = {}\nattack = [{}]\nseverity = \"{severity}\"\non = [\"{kind}\"]\n\
                 ignore_case = true\nwhen = [\n{}]\n",
                quoted(&format!("{}{suffix}", header.id())),
                quoted(&header.title),
                header.attack().iter().map(|id| quoted(id)).collect::<Vec<_>>().join(", "),
                list(when.clone()),
            );
            if !unless.is_empty() {
                let _ = writeln!(text, "unless = [\n{}]", list(unless.iter().collect()));
            }
            let benign = scalars(&header.document["falsepositives"]).unwrap_or_default().join("; ");
            if !benign.is_empty() {
                let _ = writeln!(text, "benign = {}", quoted(&benign));
            }
            text.push('\n');
        }
        // What we write must be what we read: numbers and networks are checked there.
        rules::parse(&text)?;
        rules::parse(&format!("{}{text}", self.rules))?;
        self.rules.push_str(&text);
        Ok(())
    }

    /// Paths for fswatch.
    fn paths(&mut self, header: &Header<'_>, terms: &[Term]) -> Result<(), Vec<String>> {
        let mut paths = Vec::new();
        for term in terms {
            if !term.unless.is_empty() {
                return Err(vec![
                    "detection.condition: exceptions are not supported in rules about files".to_owned(),
                ]);
            }
            let [one] = term.when.as_slice() else {
                return Err(vec![
                    "detection: fswatch watches paths; more than one TargetFilename is not supported"
                        .to_owned(),
                ]);
            };
            if one.field != "TargetFilename" {
                return Err(vec![format!(
                    "{}: fswatch watches paths regardless of the writing process",
                    one.field
                )]);
            }
            for value in &one.values {
                let path = match value.strip_suffix("/*") {
                    Some(directory) => format!("recursive:{directory}"),
                    None => value.clone(),
                };
                if !value.starts_with('/') || path.contains(['*', '?']) {
                    return Err(vec![format!(
                        "TargetFilename: {value:?} is not supported: only whole paths and |startswith with a directory are"
                    )]);
                }
                paths.push(path);
            }
        }
        let severity = header.severity()?;
        let list = |all: &[String]| all.iter().map(|one| quoted(one)).collect::<Vec<_>>().join(", ");
        let _ = write!(
            self.paths,
            "{}[[paths.groups]]\nname = {}\npath = [{}]\nseverity = \"{severity}\"\ntags = [{}]\n\n",
            header.comment(),
            quoted(&header.id()),
            list(&paths),
            list(&header.attack()),
        );
        Ok(())
    }
}

/// What a rule says beside its detection.
struct Header<'a> {
    place: &'a str,
    title: String,
    document: &'a Yaml,
}

impl Header<'_> {
    fn id(&self) -> String {
        let name = self.place.rsplit('/').next().unwrap_or(self.place);
        let name = name.replace(".yml", "").replace(".yaml", "");
        let plain =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
        format!("sigma-{}", plain.collect::<String>().trim_matches('-'))
    }

    fn comment(&self) -> String {
        let text = |key: &str| {
            let text = scalar(&self.document[key]).unwrap_or_default();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let (id, author) = (text("id"), text("author"));
        let id = if id.is_empty() { String::new() } else { format!(" {id}") };
        let author = if author.is_empty() { String::new() } else { format!(", by {author}") };
        format!("# Sigma{id}{author}\n")
    }

    fn severity(&self) -> Result<&'static str, Vec<String>> {
        match scalar(&self.document["level"]).as_deref() {
            Some("informational" | "low") => Ok("low"),
            Some("medium") | None => Ok("medium"),
            Some("high") => Ok("high"),
            Some("critical") => Ok("critical"),
            Some(other) => Err(vec![format!("level: unknown level {other:?}")]),
        }
    }

    /// Techniques of its tags.
    fn attack(&self) -> Vec<String> {
        let tags = scalars(&self.document["tags"]).unwrap_or_default();
        let technique = |tag: &String| {
            let id = tag.strip_prefix("attack.")?.to_ascii_uppercase();
            let is_id = id.starts_with('T') && id[1..].starts_with(|c: char| c.is_ascii_digit());
            is_id.then_some(id)
        };
        tags.iter().filter_map(technique).collect()
    }
}

/// A text of TOML: as JSON writes it, but for one character that JSON lets stand.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

/// Comparisons as an inline table. A key stands in a table once, so that what comes again has a table of its own.
fn inline(all: &[Comparison]) -> String {
    let mut tables: Vec<Vec<&Comparison>> = vec![Vec::new()];
    for one in all {
        match tables.iter_mut().find(|table| table.iter().all(|known| known.field != one.field)) {
            Some(table) => table.push(one),
            None => tables.push(vec![one]),
        }
    }
    let key = |one: &&Comparison| {
        let values: Vec<String> = one.values.iter().map(|value| quoted(value)).collect();
        format!("{} = [{}]", one.field, values.join(", "))
    };
    let mut texts = tables.iter().map(|table| table.iter().map(key).collect::<Vec<_>>().join(", "));
    let first = texts.next().unwrap_or_default();
    let more: Vec<String> = texts.map(|text| format!("{{ {text} }}")).collect();
    if more.is_empty() {
        format!("{{ {first} }}")
    } else {
        format!("{{ {first}, and = [{}] }}", more.join(", "))
    }
}

#[cfg(test)]
mod tests;
