//! Which rule a path has.
//!
//! [`Rules`] are the checked configuration. A [`Coverage`] is what they mean on this host, where the root of an entry may be
//! a symbolic link: a tree of names that answers for any path at once, because every event and every file of
//! a scan asks.
//!
//! Where entries overlap, the nearer one counts: the one whose root has more names; at the same root one that covers
//! only a directory before one that covers everything below, a plain path before one with wildcards, and the later
//! one before the earlier one. What a group excludes is left out of that group only, and a path that is named in full is
//! never left out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
pub use vigie_sdk::severity::Severity;

use crate::config::{Complaints, Config, PathGroup, Problem, Problems, Settings};
use crate::pattern::{Pattern, States, is_pattern, names_of, unescaped};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Attribute {
    /// The kind of the object.
    Kind,
    /// What is in a file.
    Content,
    /// Bytes in a file.
    Size,
    /// Permission bits.
    Mode,
    /// The owner.
    Owner,
    /// The group.
    Group,
    /// When the content changed.
    ModificationTime,
    /// Where a symbolic link points.
    Target,
    /// Number of the inode (and of its device).
    Inode,
    /// Number of names.
    Links,
    /// Number of a device node.
    Device,
    /// Inode flags: immutable and its like.
    Flags,
    /// POSIX access control lists.
    Acl,
    /// File capabilities.
    Capabilities,
    /// The SELinux label.
    SelinuxLabel,
    /// All other extended attributes.
    ExtendedAttributes,
}

impl Attribute {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Kind,
        Self::Content,
        Self::Size,
        Self::Mode,
        Self::Owner,
        Self::Group,
        Self::ModificationTime,
        Self::Target,
        Self::Inode,
        Self::Links,
        Self::Device,
        Self::Flags,
        Self::Acl,
        Self::Capabilities,
        Self::SelinuxLabel,
        Self::ExtendedAttributes,
    ];

    /// The name in configuration and alerts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Content => "content",
            Self::Size => "size",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Group => "group",
            Self::ModificationTime => "modification_time",
            Self::Target => "target",
            Self::Inode => "inode",
            Self::Links => "links",
            Self::Device => "device",
            Self::Flags => "flags",
            Self::Acl => "acl",
            Self::Capabilities => "capabilities",
            Self::SelinuxLabel => "selinux_label",
            Self::ExtendedAttributes => "extended_attributes",
        }
    }

    /// Finds an attribute by its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.name().eq_ignore_ascii_case(name))
    }
}

/// A set of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes(u32);

impl Attributes {
    /// None.
    pub const NONE: Self = Self(0);

    /// Every attribute.
    pub const ALL: Self = Self((1 << Attribute::ALL.len()) - 1);

    /// What is compared when nothing is said: all but the inode, which every atomic replacement changes.
    pub const DEFAULT: Self = Self::ALL.without(Attribute::Inode);

    /// The default without what is in a file.
    pub(crate) const METADATA: Self = Self::DEFAULT.without(Attribute::Content);

    /// This set and one attribute more.
    #[must_use]
    pub const fn with(self, attribute: Attribute) -> Self {
        Self(self.0 | 1 << attribute as u8)
    }

    /// This set without one attribute.
    #[must_use]
    pub const fn without(self, attribute: Attribute) -> Self {
        Self(self.0 & !(1 << attribute as u8))
    }

    /// Whether it is in the set.
    #[must_use]
    pub const fn contains(self, attribute: Attribute) -> bool {
        self.0 & 1 << attribute as u8 != 0
    }

    /// What is in one of the two sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The attributes of the set in their order.
    pub fn iter(self) -> impl Iterator<Item = Attribute> {
        Attribute::ALL.into_iter().filter(move |attribute| self.contains(*attribute))
    }
}

/// What is done with the objects that a rule covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What is compared.
    pub attributes: Attributes,
    /// How much any change matters; without it each kind of change has its own severity.
    pub severity: Option<Severity>,
    /// Whether files are hashed; metadata only otherwise.
    pub hash: bool,
    /// Largest file that is hashed, in bytes.
    pub largest_hashed: Option<u64>,
    /// Whether a file that only grows, and a new one that takes its place, are no change.
    pub growing: bool,
    /// Labels that alerts of this rule carry.
    pub tags: Vec<String>,
}

/// What marks a path that is watched with everything below it.
const RECURSIVE: &str = "recursive:";

/// Levels below the root of an entry that covers everything.
const ANY_DEPTH: usize = usize::MAX;

/// Longest name of a group and longest tag, in bytes.
const MAX_LABEL_BYTES: usize = 64;

/// One thing that a group leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exclusion {
    /// As it is configured.
    text: String,
    patterns: Vec<Pattern>,
    scope: Scope,
}

/// What an exclusion is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Every name below the root of an entry.
    Name,
    /// The names below the root of an entry, from its root on.
    Relative,
    /// The whole path.
    Absolute,
}

/// Some paths that are watched alike.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    /// As it is told: `[paths]`, `[paths "web"]`, `profile default: boot`.
    title: String,
    options: Arc<Options>,
    follow: bool,
    exclusions: Vec<Exclusion>,
}

/// One configured path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// In its canonical form, `/etc` or `recursive:/home/*/.ssh`.
    text: String,
    group: usize,
    recursive: bool,
    /// Levels below the root that are covered.
    reach: usize,
    /// What its braces stand for; a single plain path has one without wildcards.
    patterns: Vec<Pattern>,
}

/// The checked configuration of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    groups: Vec<Group>,
    entries: Vec<Entry>,
    settings: Settings,
}

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
        return Err(format!("{path:?} holds a NUL character, which no path has"));
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
                let message = format!("{name:?} is no attribute; known are default, all, metadata, {known}");
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
        problems.add("growing", "needs the content: take hash = false away, and content into the attributes");
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
            complaints.add("", format!("there is already a group of the name {name:?}"));
            return;
        }
        names.push(name);
        if group.path.as_ref().is_none_or(Vec::is_empty) {
            complaints.add("", "has no path, so it says nothing; give it one with path = …");
        }
        self.add(group, format!("[paths {name:?}]"), &mut complaints);
    }

    fn add(&mut self, group: &PathGroup, title: String, problems: &mut Complaints<'_>) {
        let index = self.groups.len();
        let depth = match group.depth {
            None => None,
            Some(depth) => match usize::try_from(depth) {
                Ok(depth @ 1..) => Some(depth),
                _ => {
                    problems.add("depth", format!("{depth} is not a whole number from 1 on"));
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

    /// Rules that cover nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { groups: Vec::new(), entries: Vec::new(), settings: Settings::default() }
    }

    /// How the module works.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The entries in their canonical form, those of the profile first.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.text.clone()).collect()
    }

    /// Identifies the whole configuration with all its defaults: SHA-256 of what it says.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let groups: Vec<Value> = self
            .groups
            .iter()
            .map(|group| {
                let exclusions: Vec<&str> = group.exclusions.iter().map(|one| one.text.as_str()).collect();
                json!([group.title, group.options.to_json(), group.follow, exclusions])
            })
            .collect();
        let entries: Vec<Value> =
            self.entries.iter().map(|entry| json!([entry.text, entry.group, entry.reach])).collect();
        let settings = &self.settings;
        let settings =
            json!([settings.settle.as_millis().to_string(), settings.quick_scan.map(|time| time.as_secs()),]);
        Sha256::digest(json!([groups, entries, settings]).to_string().as_bytes()).into()
    }
}

impl Options {
    /// What is done, for answers: the keys of the configuration.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let attributes: Vec<&str> = self.attributes.iter().map(Attribute::name).collect();
        json!({
            "attributes": attributes,
            "severity": self.severity,
            "hash": self.hash,
            "largest_hashed": self.largest_hashed,
            "growing": self.growing,
            "tags": self.tags,
        })
    }
}

/// Where an entry begins on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Where to look: the root itself, or for an entry with wildcards the directory below which there may be some. Free of
    /// symbolic links but for its last name when `link_to` is there.
    pub path: PathBuf,
    /// The path as it is configured, without wildcards.
    pub configured: PathBuf,
    /// The entry in its canonical form.
    pub entry: String,
    /// Whether everything below is covered.
    pub recursive: bool,
    /// Whether `path` is only where wildcards begin.
    pub wildcard: bool,
    /// The path is a symbolic link that leads here; what is there has a root of its own.
    pub link_to: Option<PathBuf>,
}

/// What a directory's names matter for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// No name below it matters.
    Nothing,
    /// Its names matter only where one leads to a root.
    OnTheWay,
    /// What is in it is watched.
    Covered,
}

/// An entry at a place of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    entry: usize,
    /// What must still match below the place; the root is where it does.
    rest: Option<Pattern>,
    /// Levels below the root that are covered.
    reach: usize,
    /// Names above which nothing is excluded.
    floor: usize,
}

#[derive(Debug, Clone, Default)]
struct Node {
    children: BTreeMap<Box<[u8]>, usize>,
    places: Vec<Place>,
    /// Group, index in the group, and what must still match.
    exclusions: Vec<(usize, usize, Option<Pattern>)>,
    /// There are roots below.
    leads: bool,
    /// Nothing here or below is ever covered.
    forbidden: bool,
}

/// An entry that covers a path, unless it excludes it.
struct Candidate<'a> {
    place: &'a Place,
    /// Names of the root.
    root: usize,
}

/// All that the tree says of a path.
struct Survey<'a> {
    length: usize,
    candidates: Vec<Candidate<'a>>,
    /// Places whose wildcards may match further down.
    open: Vec<&'a Place>,
    /// Group, index of the exclusion in it, and after how many names it matched.
    hits: Vec<(usize, usize, usize)>,
    leads: bool,
    forbidden: bool,
    /// Names directly below may differ in more than exclusions by name: something is entered or may still match there.
    goes_on: bool,
}

/// The rule of the names directly in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamesRule<'a> {
    /// All of them have this one, or none.
    Alike(Option<&'a Options>),
    /// Each has to be asked for.
    Each,
}

/// What the rules mean on this host: which rule any path has.
#[derive(Debug, Clone)]
pub struct Coverage {
    rules: Arc<Rules>,
    nodes: Vec<Node>,
    roots: Vec<Root>,
    /// The directory of the module's canary, in which names matter although no rule covers it.
    canary: Option<PathBuf>,
}

/// Where a path really is: as much of it as exists is resolved.
fn real(path: &Path, resolve: &dyn Fn(&Path) -> Option<PathBuf>) -> PathBuf {
    // From the whole path to its beginning; a loop, because a path can have thousands of names.
    for ancestor in path.ancestors() {
        if let Some(found) = resolve(ancestor) {
            return match path.strip_prefix(ancestor) {
                Ok(rest) if !rest.as_os_str().is_empty() => found.join(rest),
                _ => found,
            };
        }
    }
    path.to_owned()
}

/// Where the name itself is, which may be a symbolic link.
fn real_name(path: &Path, resolve: &dyn Fn(&Path) -> Option<PathBuf>) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent, resolve).join(name),
        _ => path.to_owned(),
    }
}

fn path_of(names: &[&[u8]]) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(names.iter().map(|name| OsStr::from_bytes(name)));
    path
}

impl Coverage {
    /// Finds out where everything begins. `resolve` gives the real path of a path that is, or goes through, a symbolic
    /// link, and `None` for any other; [`std::fs::canonicalize`] will do.
    #[must_use]
    pub fn new(rules: &Rules, resolve: &dyn Fn(&Path) -> Option<PathBuf>) -> Self {
        let mut coverage = Self {
            rules: Arc::new(rules.clone()),
            nodes: vec![Node::default()],
            roots: Vec::new(),
            canary: None,
        };
        let rules = Arc::clone(&coverage.rules);
        for (index, entry) in rules.entries.iter().enumerate() {
            if entry.patterns.is_empty() {
                coverage.enter(index, PathBuf::from("/"), None, resolve);
            }
            for pattern in &entry.patterns {
                let (base, rest) = pattern.split();
                coverage.enter(index, path_of(&base), rest, resolve);
            }
        }
        for (group, rule) in rules.groups.iter().enumerate() {
            for (index, exclusion) in rule.exclusions.iter().enumerate() {
                if exclusion.scope == Scope::Absolute {
                    for pattern in &exclusion.patterns {
                        coverage.exclude(group, index, pattern, resolve);
                    }
                }
            }
        }
        coverage
    }

    fn enter(
        &mut self,
        index: usize,
        configured: PathBuf,
        rest: Option<Pattern>,
        resolve: &dyn Fn(&Path) -> Option<PathBuf>,
    ) {
        let rules = Arc::clone(&self.rules);
        let entry = &rules.entries[index];
        // What changes on the configured way can lead elsewhere.
        self.mark_way(&configured);
        let name = real_name(&configured, resolve);
        let target = real(&configured, resolve);
        let root = |path: &Path, link_to| Root {
            path: path.to_owned(),
            configured: configured.clone(),
            entry: entry.text.clone(),
            recursive: entry.recursive,
            wildcard: rest.is_some(),
            link_to,
        };
        if name != target {
            if rest.is_none() && self.put(&name, index, None, 0) {
                self.roots.push(root(&name, Some(target.clone())));
            }
            // The link itself can be made to lead elsewhere.
            let link = self.node(&name, |node| node.leads = true);
            self.nodes[link].leads = true;
        }
        if self.put(&target, index, rest.clone(), entry.reach) {
            self.roots.push(root(&target, None));
        }
    }

    /// The node of a path, made where it is missing.
    fn node(&mut self, path: &Path, mut on_the_way: impl FnMut(&mut Node)) -> usize {
        let mut at = 0;
        for name in names_of(path) {
            on_the_way(&mut self.nodes[at]);
            at = match self.nodes[at].children.get(name) {
                Some(child) => *child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[at].children.insert(name.into(), child);
                    child
                }
            };
        }
        at
    }

    fn mark_way(&mut self, path: &Path) {
        self.node(path, |node| node.leads = true);
    }

    /// Puts an entry at a place, unless one of the same group is there that says the same.
    fn put(&mut self, path: &Path, entry: usize, rest: Option<Pattern>, reach: usize) -> bool {
        let group = self.rules.entries[entry].group;
        let node = self.node(path, |node| node.leads = true);
        let floor = names_of(path).count();
        let rules = Arc::clone(&self.rules);
        let same = |place: &Place| {
            rules.entries[place.entry].group == group && place.rest == rest && place.reach == reach
        };
        if self.nodes[node].places.iter().any(same) {
            return false;
        }
        self.nodes[node].places.push(Place { entry, rest, reach, floor });
        true
    }

    fn exclude(
        &mut self,
        group: usize,
        index: usize,
        pattern: &Pattern,
        resolve: &dyn Fn(&Path) -> Option<PathBuf>,
    ) {
        let (base, rest) = pattern.split();
        let configured = path_of(&base);
        for path in [real_name(&configured, resolve), real(&configured, resolve)] {
            let node = self.node(&path, |_| {});
            let exclusion = (group, index, rest.clone());
            if !self.nodes[node].exclusions.contains(&exclusion) {
                self.nodes[node].exclusions.push(exclusion);
            }
        }
    }

    /// Takes a path and everything below it out, whatever the rules say: the module's own files.
    #[must_use]
    pub fn without(mut self, path: &Path) -> Self {
        let node = self.node(path, |_| {});
        self.nodes[node].forbidden = true;
        self
    }

    /// Follows a symbolic link that was found during a scan to where it leads. One that is itself the root of an entry
    /// with wildcards is followed to whatever is there; one below a root where the rule follows links, to a file: then
    /// `target` has the rule of `link`. Tells whether it is followed.
    pub(crate) fn follow_link(&mut self, link: &Path, target: &Path) -> bool {
        let survey = self.survey(link);
        let Some(candidate) = self.best(&survey, link) else { return false };
        let (entry, root) = (candidate.place.entry, candidate.root);
        let is_root = candidate.place.rest.is_some() && root == survey.length;
        let rule = &self.rules.entries[entry];
        if is_root {
            let (reach, text, recursive) = (rule.reach, rule.text.clone(), rule.recursive);
            if self.put(target, entry, None, reach) {
                self.roots.push(Root {
                    path: target.to_owned(),
                    configured: link.to_owned(),
                    entry: text,
                    recursive,
                    wildcard: false,
                    link_to: None,
                });
            }
            return true;
        }
        if self.rules.groups[rule.group].follow && root < survey.length {
            self.put(target, entry, None, 0);
            return true;
        }
        false
    }

    fn survey<'a>(&'a self, path: &Path) -> Survey<'a> {
        let length = names_of(path).count();
        let mut survey = Survey {
            length,
            candidates: Vec::new(),
            open: Vec::new(),
            hits: Vec::new(),
            leads: false,
            forbidden: false,
            goes_on: false,
        };
        let mut places: Vec<(&Place, &Pattern, States, Option<usize>)> = Vec::new();
        let mut exclusions: Vec<(usize, usize, &Pattern, States)> = Vec::new();
        let mut node = Some(&self.nodes[0]);
        let mut names = names_of(path);
        let mut depth = 0;
        loop {
            if let Some(node) = node {
                survey.forbidden |= node.forbidden;
                for place in &node.places {
                    match &place.rest {
                        None if length - depth <= place.reach => {
                            survey.candidates.push(Candidate { place, root: depth });
                        }
                        None => {}
                        Some(rest) => places.push((place, rest, rest.start(), None)),
                    }
                }
                for (group, index, rest) in &node.exclusions {
                    match rest {
                        None => survey.hits.push((*group, *index, depth)),
                        Some(rest) => exclusions.push((*group, *index, rest, rest.start())),
                    }
                }
            }
            let Some(name) = names.next() else { break };
            depth += 1;
            for (_, pattern, states, root) in &mut places {
                *states = pattern.step(*states, name);
                if pattern.accepts(*states) {
                    *root = Some(depth);
                }
            }
            for (group, index, pattern, states) in &mut exclusions {
                *states = pattern.step(*states, name);
                if pattern.accepts(*states) {
                    survey.hits.push((*group, *index, depth));
                }
            }
            node = node.and_then(|node| node.children.get(name)).map(|child| &self.nodes[*child]);
        }
        survey.goes_on = exclusions.iter().any(|(_, _, pattern, states)| pattern.goes_on(*states));
        for (place, pattern, states, root) in places {
            if let Some(root) = root.filter(|root| length - root <= place.reach) {
                survey.candidates.push(Candidate { place, root });
            }
            if pattern.goes_on(states) {
                survey.open.push(place);
            }
        }
        survey.leads = node.is_some_and(|node| node.leads);
        survey.goes_on |= !survey.open.is_empty() || node.is_some_and(|node| !node.children.is_empty());
        survey
    }

    /// Which exclusion of its group leaves the path out, if the root is after so many names.
    fn excluded(&self, survey: &Survey<'_>, path: &Path, place: &Place, root: Option<usize>) -> Option<&str> {
        let group = self.rules.entries[place.entry].group;
        let exclusions = &self.rules.groups[group].exclusions;
        let hit = survey.hits.iter().find(|(owner, _, depth)| *owner == group && *depth > place.floor);
        if let Some((_, index, _)) = hit {
            return Some(&exclusions[*index].text);
        }
        let found = exclusions.iter().find(|exclusion| match exclusion.scope {
            Scope::Name => names_of(path)
                .skip(place.floor)
                .any(|name| exclusion.patterns.iter().any(|pattern| pattern.matches_name(name))),
            Scope::Relative => root.is_some_and(|root| {
                exclusion.patterns.iter().any(|pattern| pattern.matches_beginning(names_of(path).skip(root)))
            }),
            Scope::Absolute => false,
        });
        found.map(|exclusion| exclusion.text.as_str())
    }

    /// How near an entry is.
    fn nearness(&self, candidate: &Candidate<'_>) -> (usize, bool, bool, usize) {
        let Candidate { place, root } = candidate;
        (*root, !self.rules.entries[place.entry].recursive, place.rest.is_none(), place.entry)
    }

    /// The nearest entry that does not exclude the path.
    fn best<'a>(&self, survey: &'a Survey<'a>, path: &Path) -> Option<&'a Candidate<'a>> {
        if survey.forbidden {
            return None;
        }
        let mut bound = None;
        loop {
            let next = survey
                .candidates
                .iter()
                .filter(|one| bound.is_none_or(|bound| self.nearness(one) < bound))
                .max_by_key(|one| self.nearness(one))?;
            if self.excluded(survey, path, next.place, Some(next.root)).is_none() {
                return Some(next);
            }
            bound = Some(self.nearness(next));
        }
    }

    /// The rule of an object; `None` when it is not watched. The path is absolute and free of symbolic links.
    #[must_use]
    pub fn options(&self, path: &Path) -> Option<&Options> {
        let survey = self.survey(path);
        let entry = self.best(&survey, path)?.place.entry;
        Some(&self.rules.groups[self.rules.entries[entry].group].options)
    }

    /// The rule of all names directly in a directory at once, so that a scan need not ask for each: what
    /// [`Coverage::options`] would say.
    #[must_use]
    pub(crate) fn options_of_names(&self, directory: &Path) -> NamesRule<'_> {
        let mut survey = self.survey(directory);
        let excludes_names = |one: &Candidate<'_>| {
            let group = self.rules.entries[one.place.entry].group;
            self.rules.groups[group].exclusions.iter().any(|one| one.scope != Scope::Absolute)
        };
        if survey.goes_on || survey.candidates.iter().any(excludes_names) {
            return NamesRule::Each;
        }
        // One level further down; no exclusion looks at names, so the directory's own path answers for all.
        survey.length += 1;
        let length = survey.length;
        survey.candidates.retain(|one| length - one.root <= one.place.reach);
        let best = self.best(&survey, directory).map(|best| self.rules.entries[best.place.entry].group);
        NamesRule::Alike(best.map(|group| &*self.rules.groups[group].options))
    }

    /// The entry that a path has its rule from, in its canonical form.
    #[must_use]
    pub(crate) fn rule_text(&self, path: &Path) -> Option<&str> {
        let survey = self.survey(path);
        let entry = self.best(&survey, path)?.place.entry;
        Some(&self.rules.entries[entry].text)
    }

    /// Whether links below the root of the path's rule are followed to the files they point to.
    #[must_use]
    pub fn follows(&self, path: &Path) -> bool {
        let survey = self.survey(path);
        self.best(&survey, path)
            .is_some_and(|best| self.rules.groups[self.rules.entries[best.place.entry].group].follow)
    }

    /// Whether a symbolic link at this path would be followed, see `Coverage::follow_link`.
    #[must_use]
    pub fn may_follow(&self, path: &Path) -> bool {
        let survey = self.survey(path);
        self.best(&survey, path).is_some_and(|best| {
            let is_root = best.place.rest.is_some() && best.root == survey.length;
            is_root
                || best.root < survey.length
                    && self.rules.groups[self.rules.entries[best.place.entry].group].follow
        })
    }

    /// Sets where the canary lives.
    pub(crate) fn set_canary(&mut self, directory: Option<PathBuf>) {
        self.canary = directory;
    }

    /// What the names in a directory matter for.
    #[must_use]
    pub fn interest(&self, directory: &Path) -> Interest {
        if self.canary.as_deref() == Some(directory) {
            return Interest::OnTheWay;
        }
        let survey = self.survey(directory);
        if survey.forbidden {
            return Interest::Nothing;
        }
        let covers = |one: &Candidate<'_>| {
            survey.length - one.root < one.place.reach
                && self.excluded(&survey, directory, one.place, Some(one.root)).is_none()
        };
        if survey.candidates.iter().any(covers) {
            Interest::Covered
        } else if self.leads(&survey, directory) {
            Interest::OnTheWay
        } else {
            Interest::Nothing
        }
    }

    fn leads(&self, survey: &Survey<'_>, path: &Path) -> bool {
        survey.leads || survey.open.iter().any(|place| self.excluded(survey, path, place, None).is_none())
    }

    /// Whether anything below a directory may be watched.
    #[must_use]
    pub(crate) fn descends(&self, directory: &Path) -> bool {
        self.interest(directory) != Interest::Nothing
    }

    /// Whether the coming or going of a path matters: it is watched, or on the way to what is.
    #[must_use]
    pub(crate) fn concerns(&self, path: &Path) -> bool {
        let survey = self.survey(path);
        !survey.forbidden && (self.leads(&survey, path) || self.best(&survey, path).is_some())
    }

    /// Where everything begins.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Configured paths without wildcards that are not there; they are waited for.
    #[must_use]
    pub fn waiting(&self, exists: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
        let mut waiting: Vec<PathBuf> = self
            .roots
            .iter()
            .filter(|root| !root.wildcard && root.link_to.is_none() && !exists(&root.path))
            .map(|root| root.configured.clone())
            .collect();
        waiting.sort();
        waiting.dedup();
        waiting
    }

    /// The rules that it is made from.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The entries in their canonical form.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        self.rules.entries()
    }

    /// Identifies the whole configuration, see [`Rules::digest`].
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.rules.digest()
    }

    /// Says which entry a path has its rule from, and why not another.
    #[must_use]
    pub fn explain(&self, path: &Path) -> Explanation {
        let survey = self.survey(path);
        let best = self.best(&survey, path).map(|best| best.place.entry);
        let mut others: Vec<&Candidate<'_>> =
            survey.candidates.iter().filter(|one| Some(one.place.entry) != best).collect();
        others.sort_by_key(|one| std::cmp::Reverse(self.nearness(one)));
        let name = |entry: usize| {
            let entry = &self.rules.entries[entry];
            EntryName { entry: entry.text.clone(), group: self.rules.groups[entry.group].title.clone() }
        };
        let others = others
            .into_iter()
            .map(|one| Other {
                name: name(one.place.entry),
                excluded_by: self.excluded(&survey, path, one.place, Some(one.root)).map(str::to_owned),
            })
            .collect();
        let options = best.map(|entry| {
            let group = &self.rules.groups[self.rules.entries[entry].group];
            (group.options.as_ref().clone(), group.follow)
        });
        Explanation {
            path: path.to_owned(),
            rule: best.map(name),
            options,
            others,
            leads: self.leads(&survey, path),
            own: survey.forbidden,
        }
    }
}

/// An entry and where it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName {
    /// In its canonical form.
    pub entry: String,
    /// The section or the profile's group.
    pub group: String,
}

/// An entry that a path does not have its rule from, although it could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The entry.
    pub name: EntryName,
    /// The exclusion that leaves the path out; without one, another entry is nearer.
    pub excluded_by: Option<String>,
}

/// Why a path is watched as it is, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The path.
    pub path: PathBuf,
    /// The entry that it has its rule from.
    pub rule: Option<EntryName>,
    /// The rule, and whether links are followed.
    pub options: Option<(Options, bool)>,
    /// Entries that lost, the nearest first.
    pub others: Vec<Other>,
    /// The path is on the way to what is watched.
    pub leads: bool,
    /// The path belongs to the module itself.
    pub own: bool,
}

impl Explanation {
    /// Whether the path is watched.
    #[must_use]
    pub fn watched(&self) -> bool {
        self.rule.is_some()
    }

    /// In one sentence or a few.
    #[must_use]
    pub fn sentence(&self) -> String {
        let path = self.path.display();
        let mut text = match (&self.rule, &self.options) {
            (Some(rule), Some((options, follow))) => {
                let compared: Vec<&str> = options.attributes.iter().map(Attribute::name).collect();
                let mut text = format!(
                    "{path} is watched by {} of {}: compared are {}",
                    rule.entry,
                    rule.group,
                    compared.join(", ")
                );
                if !options.hash {
                    text += "; files are not hashed";
                } else if let Some(most) = options.largest_hashed {
                    text += &format!("; files of up to {} are hashed", vigie_host::show_size(most));
                }
                if options.growing {
                    text += "; growing is no change";
                }
                if *follow {
                    text += "; links are followed to files";
                }
                if let Some(severity) = options.severity {
                    text += &format!("; any change is {}", severity.name());
                }
                text
            }
            _ if self.own => format!("{path} is not watched: it belongs to the module itself"),
            _ if self.others.is_empty() && self.leads => {
                format!("{path} is not watched itself, but is on the way to what is")
            }
            _ if self.others.is_empty() => format!("{path} is not watched: no entry covers it"),
            _ => format!("{path} is not watched"),
        };
        if !self.own {
            for Other { name, excluded_by } in &self.others {
                let EntryName { entry, group } = name;
                text += &match excluded_by {
                    Some(exclusion) => format!("; {entry} of {group} leaves it out by {exclusion}"),
                    None => format!("; {entry} of {group} covers it too, but is less near"),
                };
            }
        }
        text
    }

    /// The same for programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let others: Vec<Value> = self
            .others
            .iter()
            .map(|other| {
                json!({
                    "entry": other.name.entry,
                    "group": other.name.group,
                    "excluded_by": other.excluded_by,
                })
            })
            .collect();
        let mut options = self.options.as_ref().map(|(options, _)| options.to_json());
        if let (Some(options), Some((_, follow))) = (&mut options, &self.options) {
            options["follow"] = json!(follow);
        }
        json!({
            "path": self.path.to_string_lossy(),
            "watched": self.watched(),
            "entry": self.rule.as_ref().map(|rule| rule.entry.as_str()),
            "group": self.rule.as_ref().map(|rule| rule.group.as_str()),
            "options": options,
            "other_entries": others,
            "on_the_way": self.leads,
            "explanation": self.sentence(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rules(config: &Value) -> Rules {
        let raw = serde_json::value::to_raw_value(config).unwrap();
        Rules::compile(&vigie_sdk::json::from_any_case(Some(&raw)).unwrap()).unwrap()
    }

    fn coverage(config: &Value) -> Coverage {
        Coverage::new(&rules(config), &|_| None)
    }

    fn paths(list: &[&str]) -> Coverage {
        coverage(&json!({"paths": {"path": list}}))
    }

    fn rule(coverage: &Coverage, path: &str) -> Option<String> {
        coverage.rule_text(Path::new(path)).map(str::to_owned)
    }

    /// Links of a host: each with where it really leads.
    fn links(links: &'static [(&'static str, &'static str)]) -> impl Fn(&Path) -> Option<PathBuf> {
        move |path: &Path| {
            links.iter().find_map(|(link, target)| {
                let rest = path.strip_prefix(link).ok()?;
                let target = PathBuf::from(target);
                Some(if rest.as_os_str().is_empty() { target } else { target.join(rest) })
            })
        }
    }

    #[test]
    fn an_entry_covers_itself_and_what_is_in_it() {
        let flat = paths(&["/etc"]);
        let deep = paths(&["recursive:/etc"]);
        let bounded = coverage(&json!({"paths": {"path": ["recursive:/etc"], "depth": 2}}));

        for (path, by_flat, by_deep, by_bounded) in [
            ("/etc", true, true, true),
            ("/etc/passwd", true, true, true),
            ("/etc/ssh/config", false, true, true),
            ("/etc/a/b/c", false, true, false),
            ("/etcetera", false, false, false),
            ("/", false, false, false),
        ] {
            assert_eq!(rule(&flat, path).is_some(), by_flat, "{path}");
            assert_eq!(rule(&deep, path).is_some(), by_deep, "{path}");
            assert_eq!(rule(&bounded, path).is_some(), by_bounded, "{path}");
        }
    }

    #[test]
    fn paths_are_made_plain_and_repeated_ones_count_once() {
        let rules = rules(&json!({"paths": {"path": [
            "/etc/", "/etc", "recursive:/a/../b//c/.", "recursive: /x", "/../..", r"/odd\[1]", "/home/*/./.ssh/",
        ]}}));

        assert_eq!(
            rules.entries(),
            ["/etc", "recursive:/b/c", "recursive:/x", "/", "/odd[1]", "/home/*/.ssh"]
        );
    }

    #[test]
    fn the_root_directory_can_be_watched() {
        let flat = paths(&["/"]);
        let deep = paths(&["recursive:/"]);

        assert!(
            rule(&flat, "/").is_some() && rule(&flat, "/vmlinuz").is_some() && rule(&flat, "/a/b").is_none()
        );
        assert!(rule(&deep, "/a/b/c").is_some());
        assert_eq!(flat.interest(Path::new("/")), Interest::Covered);
        assert_eq!(flat.interest(Path::new("/a")), Interest::Nothing);
    }

    #[test]
    fn the_nearest_entry_counts() {
        let coverage = paths(&[
            "/etc/ssh/sshd_config",
            "recursive:/etc/ssh",
            "/etc/ssh",
            "recursive:/etc",
            "/etc/*/sshd_config",
            "recursive:/home/*/.ssh",
            "/home/ada",
        ]);

        for (path, expected) in [
            ("/etc/ssh/sshd_config", "/etc/ssh/sshd_config"),
            ("/etc/ssh/ssh_config", "/etc/ssh"),
            ("/etc/ssh/a/b", "recursive:/etc/ssh"),
            ("/etc/x/sshd_config", "/etc/*/sshd_config"),
            ("/etc/x/y", "recursive:/etc"),
            ("/home/ada/.ssh", "recursive:/home/*/.ssh"),
            ("/home/ada/.ssh/keys/a", "recursive:/home/*/.ssh"),
            ("/home/ada/x", "/home/ada"),
        ] {
            assert_eq!(rule(&coverage, path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(rule(&coverage, "/home/bob"), None);
    }

    #[test]
    fn of_equal_entries_the_later_one_counts() {
        let coverage = coverage(&json!({"paths": {"path": ["/etc"], "groups": [
            {"name": "a", "path": ["/etc"], "severity": "low"},
            {"name": "b", "path": ["/etc"], "severity": "high"},
        ]}}));

        assert_eq!(coverage.options(Path::new("/etc/passwd")).unwrap().severity, Some(Severity::High));
    }

    #[test]
    fn exclusions_concern_their_own_group() {
        let coverage = coverage(&json!({"paths": {
            "path": ["recursive:/etc", "/etc/keep.swp", "recursive:/srv/*"],
            "exclude": ["*.swp", "/etc/cups/*.conf", "cache/tmp", "/srv/guest", "log/"],
            "groups": [{"name": "all", "path": ["recursive:/etc/ssh"]}],
        }}));

        for (path, expected) in [
            ("/etc/a.swp", None),
            ("/etc/x.swp/below", None),
            ("/etc/keep.swp", Some("/etc/keep.swp")),
            ("/etc/ssh/a.swp", Some("recursive:/etc/ssh")),
            ("/etc/cups/a.conf", None),
            ("/etc/cups/b/a.conf", Some("recursive:/etc")),
            ("/etc/cache/tmp/x", None),
            ("/etc/x/cache/tmp", Some("recursive:/etc")),
            ("/srv/guest/x", None),
            ("/srv/web/x", Some("recursive:/srv/*")),
            ("/srv/web/log/x", None),
        ] {
            assert_eq!(rule(&coverage, path).as_deref(), expected, "{path}");
        }
        assert!(!coverage.descends(Path::new("/etc/x.swp")));
        assert!(!coverage.descends(Path::new("/srv/guest")));
        assert!(coverage.descends(Path::new("/srv/web")));
    }

    #[test]
    fn what_one_group_excludes_another_may_cover() {
        let coverage = coverage(&json!({"paths": {"groups": [
            {"name": "wide", "path": ["recursive:/etc"]},
            {"name": "near", "path": ["recursive:/etc/ssh"], "exclude": ["*.tmp"]},
        ]}}));

        assert_eq!(rule(&coverage, "/etc/ssh/a.tmp").as_deref(), Some("recursive:/etc"));
    }

    #[test]
    fn only_what_leads_somewhere_is_entered() {
        let coverage = paths(&["/var/log/auth.log", "recursive:/opt/**/bin", "/home/*/.ssh"]);
        let interest = |path: &str| coverage.interest(Path::new(path));

        assert_eq!(interest("/"), Interest::OnTheWay);
        assert_eq!(interest("/var"), Interest::OnTheWay);
        assert_eq!(interest("/var/log/auth.log"), Interest::Covered);
        assert_eq!(interest("/var/lib"), Interest::Nothing);
        assert_eq!(interest("/opt/x/y"), Interest::OnTheWay);
        assert_eq!(interest("/opt/x/bin"), Interest::Covered);
        assert_eq!(interest("/home/ada"), Interest::OnTheWay);
        assert_eq!(interest("/home/ada/.ssh"), Interest::Covered);
        assert_eq!(interest("/home/ada/.ssh/keys"), Interest::Nothing);
        assert!(coverage.concerns(Path::new("/home/ada")) && coverage.concerns(Path::new("/var")));
        assert!(!coverage.concerns(Path::new("/usr")) && !coverage.concerns(Path::new("/var/log/syslog")));
    }

    #[test]
    fn a_symbolic_link_as_root_is_watched_and_followed() {
        let rules = rules(&json!({"paths": {
            "path": ["recursive:/bin", "/lib/x.so", "/srv/www/*/conf"], "exclude": ["/bin/skip"],
        }}));
        let resolve = links(&[("/bin", "/usr/bin"), ("/lib", "/usr/lib"), ("/srv/www", "/data/www")]);

        let coverage = Coverage::new(&rules, &resolve);

        assert!(rule(&coverage, "/bin").is_some() && rule(&coverage, "/bin/ls").is_none());
        assert_eq!(rule(&coverage, "/usr/bin/ls").as_deref(), Some("recursive:/bin"));
        assert_eq!(rule(&coverage, "/usr/bin/skip"), None);
        assert_eq!(rule(&coverage, "/usr/lib/x.so").as_deref(), Some("/lib/x.so"));
        assert!(rule(&coverage, "/data/www/a/conf/x").is_some());
        assert!(coverage.concerns(Path::new("/lib")) && coverage.concerns(Path::new("/srv/www")));
        let roots: Vec<_> = coverage
            .roots()
            .iter()
            .map(|root| (root.path.to_str().unwrap(), root.link_to.is_some()))
            .collect();
        assert_eq!(
            roots,
            [("/bin", true), ("/usr/bin", false), ("/usr/lib/x.so", false), ("/data/www", false)]
        );
    }

    #[test]
    fn two_names_of_one_tree_are_one_root() {
        let rules = rules(&json!({"paths": {"path": ["/usr/bin", "/bin"]}}));

        let coverage = Coverage::new(&rules, &links(&[("/bin", "/usr/bin")]));

        let roots: Vec<_> = coverage.roots().iter().map(|root| root.path.to_str().unwrap()).collect();
        assert_eq!(roots, ["/usr/bin", "/bin"]);
    }

    #[test]
    fn links_found_in_a_scan_are_followed_where_the_rule_says_so() {
        let mut coverage = coverage(&json!({"paths": {
            "path": ["recursive:/home/*/.ssh", "recursive:/etc"],
            "groups": [{"name": "f", "path": ["recursive:/opt"], "follow": true}],
        }}));

        assert!(coverage.follow_link(Path::new("/home/ada/.ssh"), Path::new("/data/ada")));
        assert!(!coverage.follow_link(Path::new("/etc/localtime"), Path::new("/usr/share/zoneinfo/UTC")));
        assert!(coverage.follow_link(Path::new("/opt/x/link"), Path::new("/srv/file")));

        assert!(rule(&coverage, "/data/ada/deep/er").is_some());
        assert_eq!(rule(&coverage, "/usr/share/zoneinfo/UTC"), None);
        assert_eq!(rule(&coverage, "/srv/file").as_deref(), Some("recursive:/opt"));
        assert_eq!(rule(&coverage, "/srv/file/below"), None);
        assert!(coverage.follows(Path::new("/opt/x")) && !coverage.follows(Path::new("/etc/x")));
    }

    #[test]
    fn the_modules_own_files_are_never_watched() {
        let coverage = paths(&["recursive:/var", "/var/lib/vigie/x"]).without(Path::new("/var/lib/vigie"));

        assert!(rule(&coverage, "/var/lib").is_some());
        assert_eq!(rule(&coverage, "/var/lib/vigie"), None);
        assert_eq!(rule(&coverage, "/var/lib/vigie/x"), None);
        assert!(
            !coverage.descends(Path::new("/var/lib/vigie"))
                && !coverage.concerns(Path::new("/var/lib/vigie/x"))
        );
        assert!(coverage.explain(Path::new("/var/lib/vigie/y")).sentence().contains("belongs to the module"));
    }

    #[test]
    fn missing_roots_are_waited_for() {
        let coverage = paths(&["/there", "/missing", "recursive:/gone", "/home/*/x"]);

        let waiting = coverage.waiting(&|path| path == Path::new("/there"));

        assert_eq!(waiting, [PathBuf::from("/gone"), PathBuf::from("/missing")]);
    }

    #[test]
    fn attributes_are_chosen_by_name_group_and_minus() {
        let of = |items: Value| {
            let coverage = coverage(&json!({"paths": {"path": ["/a"], "attributes": items}}));
            coverage.options(Path::new("/a")).unwrap().clone()
        };

        assert_eq!(of(Value::Null).attributes, Attributes::DEFAULT);
        assert!(
            !Attributes::DEFAULT.contains(Attribute::Inode) && Attributes::DEFAULT.contains(Attribute::Links)
        );
        assert_eq!(of(json!(["all"])).attributes, Attributes::ALL);
        assert_eq!(
            of(json!(["-modification_time, -links"])).attributes,
            Attributes::DEFAULT.without(Attribute::ModificationTime).without(Attribute::Links)
        );
        assert_eq!(
            of(json!(["mode owner"])).attributes,
            Attributes::NONE.with(Attribute::Kind).with(Attribute::Mode).with(Attribute::Owner)
        );
        let metadata = of(json!(["metadata", "inode"]));
        assert!(!metadata.hash && !metadata.attributes.contains(Attribute::Content));
        assert!(metadata.attributes.contains(Attribute::Inode));
    }

    #[test]
    fn a_group_without_hashing_compares_no_content() {
        let coverage =
            coverage(&json!({"paths": {"path": ["/a"], "hash": false, "largest_hashed": "1 MiB"}}));
        let options = coverage.options(Path::new("/a")).unwrap();

        assert!(!options.hash && !options.attributes.contains(Attribute::Content));
        assert_eq!(options.largest_hashed, Some(1 << 20));
    }

    #[test]
    fn an_explanation_names_entry_rule_and_what_left_a_path_out() {
        let coverage = coverage(&json!({"paths": {
            "path": ["recursive:/etc"], "exclude": ["*.swp"],
            "groups": [{"name": "ssh", "path": ["/etc/ssh"], "severity": "critical", "follow": true}],
        }}));
        let explain = |path: &str| coverage.explain(Path::new(path));

        let near = explain("/etc/ssh/config");
        assert!(near.watched());
        assert!(near.sentence().starts_with(
            "/etc/ssh/config is watched by /etc/ssh of [paths \"ssh\"]: compared are kind, content"
        ));
        assert!(
            near.sentence().ends_with(
                "any change is critical; recursive:/etc of [paths] covers it too, but is less near"
            )
        );
        assert_eq!(near.to_json()["options"]["severity"], "critical");
        assert_eq!(near.to_json()["options"]["follow"], true);
        assert_eq!(
            explain("/etc/x.swp").sentence(),
            "/etc/x.swp is not watched; recursive:/etc of [paths] leaves it out by *.swp"
        );
        assert_eq!(explain("/usr").sentence(), "/usr is not watched: no entry covers it");
        assert!(explain("/").sentence().contains("on the way"));
    }

    #[test]
    fn any_difference_in_a_configuration_changes_its_digest() {
        let configs = [
            json!({"paths": {"path": ["/a"]}}),
            json!({"paths": {"path": ["recursive:/a"]}}),
            json!({"paths": {"path": ["/a"], "exclude": ["x"]}}),
            json!({"paths": {"path": ["/a"], "severity": "low"}}),
            json!({"paths": {"path": ["/a"], "follow": true}}),
            json!({"paths": {"path": ["recursive:/a"], "depth": 3}}),
            json!({"paths": {"path": ["/a"]}, "fswatch": {"quick_scan_minutes": 30}}),
            json!({}),
        ];

        let digests: std::collections::BTreeSet<_> =
            configs.iter().map(|config| rules(config).digest()).collect();

        assert_eq!(digests.len(), configs.len());
        assert_eq!(rules(&configs[0]).digest(), rules(&json!({"Paths": {"Path": ["/a/"]}})).digest());
    }

    #[test]
    fn the_profiles_are_valid_and_say_what_matters_most() {
        for profile in ["default", "minimal"] {
            let rules = rules(&json!({"fswatch": {"profile": profile}}));
            for group in rules.settings().profile.groups() {
                let mut problems = Vec::new();
                let title = group.name.clone().unwrap();
                let mut alone =
                    Rules { groups: Vec::new(), entries: Vec::new(), settings: Settings::default() };
                alone.add(&group, title.clone(), &mut Complaints { section: title, list: &mut problems });
                assert_eq!(problems, []);
            }
        }
        let coverage = coverage(&json!({}));
        let severity =
            |path: &str| coverage.options(Path::new(path)).unwrap_or_else(|| panic!("{path}")).severity;

        for path in [
            "/etc/ld.so.preload",
            "/etc/shadow",
            "/etc/sudoers.d/x",
            "/etc/pam.d/sshd",
            "/root/.ssh/authorized_keys",
            "/home/ada/.ssh/authorized_keys2",
            "/usr/lib/x86_64-linux-gnu/security/pam_unix.so",
            "/usr/lib64/security/a.so",
            "/etc/ssh/sshd_config",
        ] {
            assert_eq!(severity(path), Some(Severity::Critical), "{path}");
        }
        for path in [
            "/etc/cron.d/x",
            "/var/spool/cron/crontabs/root",
            "/etc/periodic/daily/x",
            "/root/.bashrc",
            "/home/ada/.config/systemd/user/x.service",
            "/usr/lib/systemd/system/a/b.conf",
            "/boot/vmlinuz",
            "/usr/lib/modules/6.1/kernel/a.ko",
            "/etc/apt/sources.list",
            "/etc/yum.repos.d/x.repo",
            "/etc/apk/repositories",
        ] {
            assert_eq!(severity(path), Some(Severity::High), "{path}");
        }
        assert_eq!(severity("/etc/resolv.conf"), Some(Severity::Low));
        for path in [
            "/usr/bin/ls",
            "/etc/hosts",
            "/usr/local/bin/x",
            "/usr/lib/x86_64-linux-gnu/libc.so.6",
            "/opt/x/bin/y",
        ] {
            assert_eq!(severity(path), None, "{path}");
        }
        for path in [
            "/etc/adjtime",
            "/etc/.hosts.swp",
            "/etc/mtab",
            "/home/ada/.ssh/known_hosts",
            "/home/ada/x",
            "/var/log/x",
        ] {
            assert!(coverage.options(Path::new(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn exclusions_without_paths_hold_for_the_profile() {
        let coverage = coverage(&json!({"paths": {"exclude": ["/etc/puppet"]}}));

        assert!(rule(&coverage, "/etc/puppet/x").is_none() && rule(&coverage, "/etc/hosts").is_some());
    }

    /// What the rules say, by trying every entry: without links, exclusions and own files.
    fn simple(entries: &[Entry], path: &Path) -> Option<usize> {
        let covers = |entry: &Entry| {
            path.ancestors().enumerate().find_map(|(above, ancestor)| {
                let root = entry.patterns.iter().find(|pattern| pattern.matches(ancestor))?;
                let literal = root.split().1.is_none();
                (above <= entry.reach).then(|| (names_of(ancestor).count(), literal))
            })
        };
        let found = entries.iter().enumerate().filter_map(|(index, entry)| {
            covers(entry).map(|(names, literal)| (names, !entry.recursive, literal, index))
        });
        found.max().map(|(.., index)| index)
    }

    proptest! {
        #[test]
        fn the_tree_says_the_same_as_trying_every_entry(
            texts in prop::collection::vec("(recursive:)?(/(a|b|\\*|\\*\\*|a\\*)){1,3}", 1..6),
            path in "(/(a|b|ab|c)){1,5}",
        ) {
            // Repeated, they mean the same and the first of two such entries is kept.
            prop_assume!(texts.iter().all(|text| !text.contains("**/**")));
            let rules = rules(&json!({"paths": {"path": texts}}));
            let coverage = Coverage::new(&rules, &|_| None);
            let path = Path::new(&path);

            let expected = simple(&rules.entries, path);

            let found = coverage.survey(path);
            let found = coverage.best(&found, path).map(|best| best.place.entry);
            prop_assert_eq!(
                found.map(|at| &rules.entries[at].text),
                expected.map(|at| &rules.entries[at].text)
            );
        }

        #[test]
        fn every_directory_above_a_watched_path_is_entered(
            texts in prop::collection::vec("(recursive:)?(/(a|b|\\*|\\*\\*)){1,3}", 1..5),
            exclude in prop::collection::vec("/?(a|b|\\*)(/(a|b|\\*)){0,2}", 0..3),
            path in "(/(a|b|c)){1,5}",
        ) {
            let coverage = coverage(&json!({"paths": {"path": texts, "exclude": exclude}}));
            let path = Path::new(&path);

            if coverage.options(path).is_some() {
                for directory in path.ancestors().skip(1) {
                    prop_assert!(coverage.descends(directory), "{}", directory.display());
                    prop_assert!(coverage.concerns(directory), "{}", directory.display());
                }
            }
        }

        #[test]
        fn what_is_said_of_all_names_is_what_is_said_of_each(
            texts in prop::collection::vec("(recursive:)?(/(a|b|\\*|\\*\\*|a\\*)){1,3}", 1..5),
            exclude in prop::collection::vec("/?(a|b|\\*)(/(a|b|\\*)){0,2}", 0..2),
            depth in prop::option::of(1u8..3),
            own in prop::option::of("(/(a|b)){1,3}"),
            directory in "(/(a|b|c)){0,4}",
        ) {
            let mut paths = json!({"path": texts, "exclude": exclude});
            if let Some(depth) = depth {
                paths["depth"] = json!(depth);
            }
            let mut coverage = coverage(&json!({"paths": paths}));
            if let Some(own) = own {
                coverage = coverage.without(Path::new(&own));
            }
            let directory = Path::new("/").join(directory.trim_start_matches('/'));

            if let NamesRule::Alike(options) = coverage.options_of_names(&directory) {
                for name in ["a", "b", "ab", "c"] {
                    prop_assert_eq!(options, coverage.options(&directory.join(name)), "{}", name);
                }
            }
        }

        #[test]
        fn any_path_has_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let coverage = coverage(&json!({}));
            let path = Path::new(OsStr::from_bytes(&bytes));

            let explanation = coverage.explain(path);

            prop_assert_eq!(explanation.watched(), coverage.options(path).is_some());
            let _ = explanation.to_json();
        }
    }
}
