//! Makes rules of a configuration, and says everything that is wrong with it.

use std::sync::Arc;

use vigie_sdk::severity::Severity;

use super::attribute::{Attribute, Attributes};
use super::{ANY_DEPTH, Entry, Exclusion, Group, Options, Rules, Scope};
use crate::config::{Complaints, Config, PathGroup, Problem, Problems};
use crate::pattern::{Pattern, is_pattern, unescaped};

/// What marks a path that is watched with everything below it.
const RECURSIVE: &str = "recursive:";

/// Longest name of a group and longest tag, in bytes.
const MAX_LABEL_BYTES: usize = 64;

/// Makes `.`, `..` and repeated slashes plain by the text alone; nothing above the root is left.
fn plain_text(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => _ = names.pop(),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// Puts a backslash before everything that would be a wildcard.
fn escaped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | '{' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

fn read_entry(text: &str, group: usize, depth: Option<usize>) -> Result<Entry, String> {
    let (path, recursive) = match text.strip_prefix(RECURSIVE) {
        Some(rest) => (rest.trim_start(), true),
        None => (text, false),
    };
    if path.is_empty() {
        return Err("is empty; give an absolute path, or recursive: and an absolute path".to_owned());
    }
    if path.contains('\0') {
        return Err(format!("{path:?} contains a NUL character, which no path can"));
    }
    if !path.starts_with('/') {
        return Err(format!("{path:?} is not an absolute path"));
    }
    // A path without wildcards may have a comma or a closing brace in it, which only braces give a meaning.
    let (shown, patterns) = if is_pattern(path) {
        let patterns = Pattern::parse(path).map_err(|error| error.to_string())?;
        (plain_text(path), patterns)
    } else {
        let plain = plain_text(&unescaped(path));
        let pattern = match plain.as_str() {
            "/" => Vec::new(),
            plain => Pattern::parse(&escaped(plain)).map_err(|error| error.to_string())?,
        };
        (plain, pattern)
    };
    let reach = match (recursive, depth) {
        (false, _) => 1,
        (true, None) => ANY_DEPTH,
        (true, Some(depth)) => depth,
    };
    let text = if recursive { format!("{RECURSIVE}{shown}") } else { shown };
    Ok(Entry { text, group, recursive, reach, patterns })
}

fn read_exclusion(text: &str) -> Result<Exclusion, String> {
    let trimmed = text.trim();
    let patterns = Pattern::parse(trimmed).map_err(|error| error.to_string())?;
    let scope = if trimmed.starts_with('/') {
        Scope::Absolute
    } else if patterns.iter().all(Pattern::is_one_name) {
        Scope::Name
    } else {
        Scope::Relative
    };
    Ok(Exclusion { text: trimmed.to_owned(), patterns, scope })
}

/// Reads the names of attributes; the items may hold several, with commas or blanks between them.
fn read_attributes(items: &[String], problems: &mut Complaints<'_>) -> Attributes {
    let mut chosen: Option<Attributes> = None;
    for (index, item) in items.iter().enumerate() {
        let words = item.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        for word in words {
            let (name, away) = match word.strip_prefix('-') {
                Some(name) => (name, true),
                None => (word, false),
            };
            let meant = match name.to_ascii_lowercase().as_str() {
                "default" => Some(Attributes::DEFAULT),
                "all" => Some(Attributes::ALL),
                "metadata" => Some(Attributes::METADATA),
                name => Attribute::from_name(name).map(|attribute| Attributes::NONE.with(attribute)),
            };
            let Some(meant) = meant else {
                let known: Vec<&str> = Attribute::ALL.into_iter().map(Attribute::name).collect();
                let known = known.join(", ");
                let message =
                    format!("{name:?} is not an attribute; valid are default, all, metadata, {known}");
                problems.add(&format!("attributes[{index}]"), message);
                continue;
            };
            if away && name.eq_ignore_ascii_case(Attribute::Kind.name()) {
                let message =
                    "the kind is always compared; without it a file could become anything".to_owned();
                problems.add(&format!("attributes[{index}]"), message);
            }
            chosen = Some(match (chosen, away) {
                (None, false) => meant,
                (None, true) => Attributes::DEFAULT.difference(meant),
                (Some(before), false) => before.union(meant),
                (Some(before), true) => before.difference(meant),
            });
        }
    }
    chosen.unwrap_or(Attributes::DEFAULT).with(Attribute::Kind)
}

fn read_group(group: &PathGroup, title: String, problems: &mut Complaints<'_>) -> Group {
    let severities = Severity::ALL.map(|severity| (severity.name(), severity));
    let severity = problems.word("severity", group.severity.as_deref(), &severities);
    let largest_hashed = problems
        .bytes("largest_hashed", group.largest_hashed.as_ref(), (0, i64::MAX.unsigned_abs()), true)
        .flatten();
    let mut exclusions = Vec::new();
    for (index, text) in group.exclude.iter().flatten().enumerate() {
        match read_exclusion(text) {
            Ok(exclusion) => exclusions.push(exclusion),
            Err(message) => problems.add(&format!("exclude[{index}]"), message),
        }
    }
    let mut attributes = read_attributes(group.attributes.as_deref().unwrap_or_default(), problems);
    let hash = group.hash.unwrap_or(true) && attributes.contains(Attribute::Content);
    if !hash {
        attributes = attributes.without(Attribute::Content);
    }
    let growing = group.growing.unwrap_or(false);
    if growing && !hash {
        problems.add("growing", "needs the content: remove hash = false, and add content to the attributes");
    }
    let tags = group.tags.clone().unwrap_or_default();
    for (index, tag) in tags.iter().enumerate() {
        if tag.is_empty() || tag.len() > MAX_LABEL_BYTES || tag.chars().any(char::is_control) {
            let message = format!("a tag has 1 to {MAX_LABEL_BYTES} bytes without control characters");
            problems.add(&format!("tags[{index}]"), message);
        }
    }
    let options = Arc::new(Options { attributes, severity, hash, largest_hashed, growing, tags });
    Group { title, options, follow: group.follow.unwrap_or(false), exclusions }
}

impl Rules {
    /// Checks a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, by key.
    pub fn compile(config: &Config) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let settings = config.read_settings(&mut problems);
        let mut rules = Self { groups: Vec::new(), entries: Vec::new(), settings };
        // First, so that what is configured wins where both say the same path.
        for mut group in rules.settings.profile.groups() {
            let title = group.name.clone().unwrap_or_default();
            if let Some(own) = config.paths.as_ref().and_then(|paths| paths.own.exclude.as_ref()) {
                group.exclude.get_or_insert_default().extend(own.iter().cloned());
            }
            // A bad exclusion is named where it is configured.
            let mut ignored = Vec::new();
            rules.add(&group, title.clone(), &mut Complaints { section: title, list: &mut ignored });
        }
        if let Some(paths) = &config.paths {
            let mut complaints = Complaints { section: "paths".to_owned(), list: &mut problems };
            rules.add(&paths.own, "[paths]".to_owned(), &mut complaints);
            let mut names: Vec<&str> = Vec::new();
            for group in paths.groups.iter().flatten() {
                rules.add_named(group, &mut names, &mut problems);
            }
        }
        if problems.is_empty() { Ok(rules) } else { Err(Problems(problems)) }
    }

    fn add_named<'a>(&mut self, group: &'a PathGroup, names: &mut Vec<&'a str>, problems: &mut Vec<Problem>) {
        let name = group.name.as_deref().unwrap_or_default();
        let mut complaints = Complaints { section: format!("paths.{name}"), list: problems };
        if name.is_empty() || name.len() > MAX_LABEL_BYTES || name.chars().any(char::is_control) {
            complaints.section = "paths".to_owned();
            let message =
                format!("the name of a group has 1 to {MAX_LABEL_BYTES} bytes without control characters");
            complaints.add("", message);
            return;
        }
        if names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            complaints.add("", format!("there is already a group named {name:?}"));
            return;
        }
        names.push(name);
        if group.path.as_ref().is_none_or(Vec::is_empty) {
            complaints.add("", "has no path; add one with path = …");
        }
        self.add(group, format!("[paths {name:?}]"), &mut complaints);
    }

    pub(super) fn add(&mut self, group: &PathGroup, title: String, problems: &mut Complaints<'_>) {
        let index = self.groups.len();
        let depth = match group.depth {
            None => None,
            Some(depth) => match usize::try_from(depth) {
                Ok(depth @ 1..) => Some(depth),
                _ => {
                    problems.add("depth", format!("{depth} is not a whole number of at least 1"));
                    None
                }
            },
        };
        self.groups.push(read_group(group, title, problems));
        for (at, text) in group.path.iter().flatten().enumerate() {
            match read_entry(text, index, depth) {
                Ok(entry) if self.entries.contains(&entry) => {}
                Ok(entry) => self.entries.push(entry),
                Err(message) => problems.add(&format!("path[{at}]"), message),
            }
        }
    }
}
