//! Who may do what through sudo: rules with their aliases, includes and tags worked out.

pub mod syntax;

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use vigie_sdk::Coverage;
use vigie_tree::{Tree, Unread};

use self::syntax::{AliasKind, CommandSpec, Entry, Member};

/// Most levels of includes, as in sudo.
const MAX_DEPTH: usize = 128;

/// Most files that are read.
const MAX_FILES: usize = 10_000;

/// Largest file that is read, in bytes.
const MAX_FILE: usize = 4 << 20;

/// Most rules, and most members of one list after its aliases are worked out.
const MAX_RULES: usize = 200_000;
const MAX_MEMBERS: usize = 20_000;

/// One command that somebody may run, or may not.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, Default)]
pub struct Rule {
    /// Users and groups; `!` before one takes it out.
    pub users: Vec<String>,
    /// Where it holds.
    pub hosts: Vec<String>,
    /// As whom; nothing stands for root, or what `runas_default` says.
    pub runas_users: Vec<String>,
    /// With which groups.
    pub runas_groups: Vec<String>,
    /// `!` before it forbids it.
    pub command: String,
    /// The command's file must have one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
    /// Tags such as `NOPASSWD` and `SETENV`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<&'static str>,
    /// `cwd=/x` and the like.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// A password is asked for.
    pub password: bool,
    /// It holds on this host, as far as its name and addresses in the rule tell.
    pub this_host: bool,
    /// Where it stands.
    pub file: String,
    /// Where it stands.
    pub line: u32,
    /// What is to be known of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<&'static str>,
}

/// A setting that changes how rules work.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Setting {
    /// `:user`, `@host`, `>runas`, `!command`, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub binding: String,
    /// As it is written.
    pub settings: String,
    /// Where it stands.
    pub file: String,
    /// Where it stands.
    pub line: u32,
}

/// Something that is wrong with a file.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub file: String,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What.
    pub problem: String,
}

/// Everything that sudo was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// In the order in which sudo reads them; the last one that matches decides.
    pub rules: Vec<Rule>,
    /// Settings.
    pub defaults: Vec<Setting>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Files that were read.
    pub files: u64,
    /// There are more rules, or members of one alias, than are worked out.
    pub is_cut: bool,
}

/// What a file says, before aliases are worked out.
#[derive(Debug)]
struct Said {
    file: String,
    line: u32,
    entry: Entry,
}

/// Reads `path` and everything that it includes.
pub fn read(tree: &Tree, path: &str, host: &str, coverage: &mut Coverage) -> Policy {
    let mut reader = Reader { tree, host, coverage, said: Vec::new(), policy: Policy::default() };
    reader.file(path.as_bytes(), 0, true);
    let Reader { said, policy, .. } = reader;
    let mut unread: Vec<&str> = said
        .iter()
        .filter(|said| matches!(said.entry, Entry::Wrong { .. }))
        .map(|said| said.file.as_str())
        .collect();
    unread.dedup();
    for file in unread {
        coverage.skip(file, "lines of it are not understood: see the problems");
    }
    let policy = expand(said, policy, host);
    if policy.is_cut {
        coverage.skip(path, "its rules and aliases are more than are worked out");
    }
    policy
}

/// Works out one file without includes.
#[must_use]
pub fn of_text(content: &[u8], host: &str) -> Policy {
    let said = syntax::parse(content)
        .into_iter()
        .map(|(line, entry)| Said { file: String::new(), line, entry })
        .collect();
    expand(said, Policy::default(), host)
}

struct Reader<'a> {
    tree: &'a Tree,
    host: &'a str,
    coverage: &'a mut Coverage,
    said: Vec<Said>,
    policy: Policy,
}

impl Reader<'_> {
    fn problem(&mut self, file: &str, line: Option<u32>, problem: impl Into<String>) {
        self.policy.problems.push(Problem { file: file.to_owned(), line, problem: problem.into() });
    }

    fn file(&mut self, path: &[u8], depth: usize, required: bool) {
        let shown = vigie_host::shown(path);
        let entry = match self.tree.find(path) {
            Ok(entry) => entry,
            Err(Unread::Gone) if !required => return,
            Err(Unread::Gone) if depth == 0 => return,
            Err(why) => {
                if why != Unread::Gone {
                    self.coverage.skip(shown.clone(), why.to_string());
                }
                self.problem(&shown, None, why.to_string());
                return;
            }
        };
        if self.policy.files as usize >= MAX_FILES {
            self.coverage.skip(shown, "too many files are included");
            return;
        }
        self.policy.files += 1;
        if entry.status.uid != 0 {
            self.problem(&shown, None, "sudo rejects it: its owner is not root");
        }
        if entry.status.mode & 0o022 != 0 {
            self.problem(&shown, None, "sudo rejects it: users other than root can write it");
        }
        let content = match entry.read(MAX_FILE) {
            Ok(content) => content,
            Err(why) => {
                self.coverage.skip(shown, why.to_string());
                return;
            }
        };
        let directory = path[..path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1)].to_vec();
        for (line, entry) in syntax::parse(&content) {
            let Entry::Include { path, directory: is_directory } = &entry else {
                self.said.push(Said { file: shown.clone(), line, entry });
                continue;
            };
            if depth + 1 >= MAX_DEPTH {
                self.problem(&shown, Some(line), "too many levels of includes");
                continue;
            }
            let short = self.host.split('.').next().unwrap_or_default();
            let path = path.replace("%h", short);
            let path = if path.starts_with('/') {
                path.into_bytes()
            } else {
                [directory.as_slice(), path.as_bytes()].concat()
            };
            if *is_directory {
                self.directory(&path, depth + 1);
            } else {
                self.file(&path, depth + 1, true);
            }
        }
    }

    fn directory(&mut self, path: &[u8], depth: usize) {
        match self.tree.list(path) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry.name();
                    if !name.contains(&b'.') && !name.ends_with(b"~") && !entry.status.is_directory() {
                        self.file(&vigie_tree::joined(path, name), depth, false);
                    }
                }
            }
            Err(Unread::Gone) => {}
            Err(why) => self.coverage.skip(vigie_host::shown(path), why.to_string()),
        }
    }
}

type Aliases = HashMap<(AliasKind, String), Vec<Member>>;

fn expand(said: Vec<Said>, mut policy: Policy, host: &str) -> Policy {
    let mut aliases: Aliases = HashMap::new();
    for Said { file, line, entry } in &said {
        match entry {
            Entry::Alias { kind, name, members } => match aliases.entry((*kind, name.clone())) {
                std::collections::hash_map::Entry::Occupied(_) => policy.problems.push(Problem {
                    file: file.clone(),
                    line: Some(*line),
                    problem: format!("the alias {name} is defined twice"),
                }),
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(members.clone());
                }
            },
            Entry::Defaults { binding, settings } => policy.defaults.push(Setting {
                binding: binding.clone(),
                settings: settings.clone(),
                file: file.clone(),
                line: *line,
            }),
            Entry::Wrong { problem } => policy.problems.push(Problem {
                file: file.clone(),
                line: Some(*line),
                problem: (*problem).to_owned(),
            }),
            _ => {}
        }
    }
    let asking: Vec<Asking> =
        policy.defaults.iter().flat_map(|default| Asking::of(&aliases, default)).collect();
    for Said { file, line, entry } in &said {
        let Entry::Rule { users, privileges } = entry else { continue };
        let users = names(&aliases, AliasKind::User, users);
        policy.is_cut |= users.len() >= MAX_MEMBERS;
        for (hosts, specs) in privileges {
            let hosts = names(&aliases, AliasKind::Host, hosts);
            policy.is_cut |= hosts.len() >= MAX_MEMBERS;
            let forbids_some = specs.iter().any(|spec| spec.command.negated);
            let allows_all = specs.iter().any(|spec| spec.command.name == "ALL" && !spec.command.negated);
            for spec in specs {
                let commands = members(&aliases, AliasKind::Command, std::slice::from_ref(&spec.command));
                policy.is_cut |= commands.len() >= MAX_MEMBERS;
                for command in commands {
                    if policy.rules.len() >= MAX_RULES {
                        policy.is_cut = true;
                        return policy;
                    }
                    let mut rule = rule_of(&aliases, spec, &command);
                    rule.users.clone_from(&users);
                    rule.hosts.clone_from(&hosts);
                    rule.this_host = holds_here(&hosts, host);
                    rule.file.clone_from(file);
                    rule.line = *line;
                    let by_settings = || is_asked(&asking, &rule, host);
                    rule.password =
                        !rule.tags.contains(&"NOPASSWD") && (rule.tags.contains(&"PASSWD") || by_settings());
                    if forbids_some && allows_all {
                        rule.notes.push("a list of forbidden commands after ALL restricts nobody");
                    }
                    policy.rules.push(rule);
                }
            }
        }
    }
    policy
}

/// A setting that says whether a password is asked for.
struct Asking {
    asks: bool,
    /// `:`, `@`, `>` or `!`; nothing when it holds for everybody.
    binding: Option<char>,
    /// Whom it is bound to.
    members: Vec<String>,
}

impl Asking {
    /// What a line of settings says of it.
    fn of(aliases: &Aliases, default: &Setting) -> Vec<Self> {
        let binding = default.binding.chars().next();
        let kind = match binding {
            Some('@') => AliasKind::Host,
            Some('>') => AliasKind::Runas,
            Some('!') => AliasKind::Command,
            _ => AliasKind::User,
        };
        let list = default.binding.get(1..).unwrap_or_default();
        let list = syntax::members_of(list, kind).unwrap_or_default();
        let members = names(aliases, kind, &list);
        let setting = |setting: &str| {
            let setting: String = setting.chars().filter(|letter| !letter.is_whitespace()).collect();
            match (setting.as_str(), setting.split_once('=')) {
                ("authenticate", _) => Some(Self { asks: true, binding, members: members.clone() }),
                ("!authenticate", _) => Some(Self { asks: false, binding, members: members.clone() }),
                // Its members are not asked.
                (_, Some(("exempt_group", group))) if binding.is_none() => Some(Self {
                    asks: false,
                    binding: Some(':'),
                    members: vec![format!("%{}", group.trim_matches('"'))],
                }),
                _ => None,
            }
        };
        default.settings.split(',').filter_map(setting).collect()
    }

    /// Whether it is about this rule. What waives the password of one of several is about all: nobody is taken for
    /// asked who is not.
    fn is_about(&self, rule: &Rule, host: &str) -> bool {
        let names = |listed: &[String]| {
            let is_named = |name: &String| self.members.contains(name);
            let mut listed = listed.iter().filter(|name| !name.starts_with('!'));
            if self.asks { listed.all(is_named) } else { listed.any(|name| name == "ALL" || is_named(name)) }
        };
        let is_for_all = self.members.iter().any(|name| name == "ALL");
        match self.binding {
            None => true,
            Some('@') => holds_here(&self.members, host),
            Some('>') if rule.runas_users.is_empty() => is_for_all || names(&["root".to_owned()]),
            Some('>') => is_for_all || names(&rule.runas_users),
            Some('!') => is_for_all || names(std::slice::from_ref(&rule.command)),
            Some(_) => is_for_all || names(&rule.users),
        }
    }
}

/// Whether a password is asked for, as far as settings say: later ones win, and those of commands come last.
fn is_asked(asking: &[Asking], rule: &Rule, host: &str) -> bool {
    let of_command = |asking: &&Asking| asking.binding == Some('!');
    let in_order = asking.iter().filter(|one| !of_command(one)).chain(asking.iter().filter(of_command));
    in_order.rev().find(|one| one.is_about(rule, host)).is_none_or(|one| one.asks)
}

fn rule_of(aliases: &Aliases, spec: &CommandSpec, command: &Member) -> Rule {
    let list = |kind, list: &Option<Vec<Member>>| {
        list.as_deref().map(|list| names(aliases, kind, list)).unwrap_or_default()
    };
    Rule {
        runas_users: list(AliasKind::Runas, &spec.runas_users),
        runas_groups: list(AliasKind::Runas, &spec.runas_groups),
        command: shown_member(command),
        digests: spec.digests.clone(),
        tags: spec.tags.clone(),
        options: spec.options.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        ..Rule::default()
    }
}

fn shown_member(member: &Member) -> String {
    if member.negated { format!("!{}", member.name) } else { member.name.clone() }
}

fn names(aliases: &Aliases, kind: AliasKind, list: &[Member]) -> Vec<String> {
    members(aliases, kind, list).iter().map(shown_member).collect()
}

/// A list with its aliases worked out; `!` before an alias turns round each of its members.
fn members(aliases: &Aliases, kind: AliasKind, list: &[Member]) -> Vec<Member> {
    let mut found = Vec::new();
    let mut open = HashSet::new();
    work_out(aliases, kind, list, false, &mut open, &mut found);
    found
}

fn work_out<'a>(
    aliases: &'a Aliases,
    kind: AliasKind,
    list: &'a [Member],
    turned: bool,
    open: &mut HashSet<&'a str>,
    found: &mut Vec<Member>,
) {
    for member in list {
        if found.len() >= MAX_MEMBERS {
            return;
        }
        let negated = member.negated != turned;
        let alias = is_alias_name(&member.name)
            .then(|| aliases.get_key_value(&(kind, member.name.clone())))
            .flatten();
        match alias {
            // An alias that has itself in it stands for nothing more.
            Some(((_, name), inside)) if open.insert(name) => {
                work_out(aliases, kind, inside, negated, open, found);
                open.remove(name.as_str());
            }
            Some(_) => {}
            None => found.push(Member { negated, name: member.name.clone() }),
        }
    }
}

fn is_alias_name(name: &str) -> bool {
    name.starts_with(|letter: char| letter.is_ascii_uppercase())
        && name.chars().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_')
}

/// Whether the rule names this host, or might: addresses and netgroups are not looked up.
fn holds_here(hosts: &[String], host: &str) -> bool {
    let short = host.split('.').next().unwrap_or_default();
    let mut holds = false;
    for entry in hosts {
        let (negated, name) = entry.strip_prefix('!').map_or((false, entry.as_str()), |name| (true, name));
        let may_be_address =
            name.starts_with(|letter: char| letter.is_ascii_digit() || letter == '+') || name.contains(':');
        let matches = name == "ALL"
            || name.eq_ignore_ascii_case(host)
            || name.eq_ignore_ascii_case(short)
            || vigie_tree::matches(name.as_bytes(), host.as_bytes());
        if matches || (may_be_address && !negated) {
            // The last one that matches decides.
            holds = !negated;
        }
    }
    holds
}
