//! What the rules mean on this host: a tree of names that answers for any path which rule it has.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::explanation::{EntryName, Explanation, Other};
use super::{Group, Options, Rules, Scope};
use crate::pattern::{Pattern, States, names_of};

/// Where an entry begins on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Directory or file to search: the root itself, or for an entry with wildcards the directory below which
    /// there may be some. Free of symbolic links but for its last name when `link_to` is there.
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
pub(super) struct Place {
    pub(super) entry: usize,
    /// What must still match below the place, and how far that came already; the root is where it does.
    rest: Option<(Pattern, States)>,
    /// Levels below the root that are covered.
    reach: usize,
    /// Names above which nothing is excluded.
    floor: usize,
    /// A link of a user leads here: it brings in what no other entry covers, and takes nothing from those.
    weak: bool,
}

/// How an entry comes to a place.
struct Coming {
    entry: usize,
    rest: Option<(Pattern, States)>,
    reach: usize,
    weak: bool,
}

/// Where a path really is; `None` where it neither is nor goes through a symbolic link.
type Resolve<'a> = &'a dyn Fn(&Path) -> Option<PathBuf>;

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
pub(super) struct Candidate<'a> {
    pub(super) place: &'a Place,
    /// Names of the root.
    root: usize,
}

/// All that the tree says of a path.
pub(super) struct Survey<'a> {
    length: usize,
    candidates: Vec<Candidate<'a>>,
    /// Places whose wildcards may match further down.
    open: Vec<(&'a Place, States)>,
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
fn real(path: &Path, resolve: Resolve<'_>) -> PathBuf {
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
fn real_name(path: &Path, resolve: Resolve<'_>) -> PathBuf {
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
        Self::trusting(rules, resolve, resolve)
    }

    /// As [`Coverage::new`]; `trusted` goes no further than to the first link that somebody beside root can make. What
    /// is behind that is brought in, but neither left out nor taken from another entry.
    pub(crate) fn trusting(rules: &Rules, resolve: Resolve<'_>, trusted: Resolve<'_>) -> Self {
        let mut coverage = Self {
            rules: Arc::new(rules.clone()),
            nodes: vec![Node::default()],
            roots: Vec::new(),
            canary: None,
        };
        let rules = Arc::clone(&coverage.rules);
        for (index, entry) in rules.entries.iter().enumerate() {
            if entry.patterns.is_empty() {
                coverage.enter(index, PathBuf::from("/"), None, [resolve, trusted]);
            }
            for pattern in &entry.patterns {
                let (base, rest) = pattern.split();
                coverage.enter(index, path_of(&base), rest, [resolve, trusted]);
            }
        }
        for (group, rule) in rules.groups.iter().enumerate() {
            for (index, exclusion) in rule.exclusions.iter().enumerate() {
                if exclusion.scope == Scope::Absolute {
                    for pattern in &exclusion.patterns {
                        coverage.exclude(group, index, pattern, trusted);
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
        [resolve, trusted]: [Resolve<'_>; 2],
    ) {
        let rules = Arc::clone(&self.rules);
        let entry = &rules.entries[index];
        // What changes on the configured way can lead elsewhere.
        self.mark_way(&configured);
        let name = real_name(&configured, resolve);
        let target = real(&configured, resolve);
        let weak = target != real(&configured, trusted);
        let root = |path: &Path, link_to| Root {
            path: path.to_owned(),
            configured: configured.clone(),
            entry: entry.text.clone(),
            recursive: entry.recursive,
            wildcard: rest.is_some(),
            link_to,
        };
        if name != target {
            if rest.is_none() && self.put(&name, Coming { entry: index, rest: None, reach: 0, weak }) {
                self.roots.push(root(&name, Some(target.clone())));
            }
            // The link itself can be made to lead elsewhere.
            self.mark_link(&name);
        }
        let begun = rest.clone().map(|rest| {
            let states = rest.start();
            (rest, states)
        });
        if self.put(&target, Coming { entry: index, rest: begun, reach: entry.reach, weak }) {
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

    /// A link on the way to a root: where it leads matters.
    pub(crate) fn mark_link(&mut self, link: &Path) {
        let node = self.node(link, |node| node.leads = true);
        self.nodes[node].leads = true;
    }

    fn mark_way(&mut self, path: &Path) {
        self.node(path, |node| node.leads = true);
    }

    /// Puts an entry at a place, unless one of the same group is there that says the same.
    fn put(&mut self, path: &Path, coming: Coming) -> bool {
        let Coming { entry, rest, reach, weak } = coming;
        let group = self.rules.entries[entry].group;
        let node = self.node(path, |node| node.leads = true);
        let floor = names_of(path).count();
        let rules = Arc::clone(&self.rules);
        let same = |place: &Place| {
            rules.entries[place.entry].group == group && place.rest == rest && place.reach == reach
        };
        if let Some(place) = self.nodes[node].places.iter_mut().find(|place| same(place)) {
            place.weak &= weak;
            return false;
        }
        self.nodes[node].places.push(Place { entry, rest, reach, floor, weak });
        true
    }

    fn exclude(&mut self, group: usize, index: usize, pattern: &Pattern, trusted: Resolve<'_>) {
        let (base, rest) = pattern.split();
        let configured = path_of(&base);
        for path in [real_name(&configured, trusted), real(&configured, trusted)] {
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

    /// Entries whose wildcards go on below a path, and how far they came there. Those of which any number of
    /// directories may come next do not look behind links.
    fn through(&self, survey: &Survey<'_>, path: &Path) -> Vec<(usize, Pattern, States)> {
        if survey.forbidden {
            return Vec::new();
        }
        let open = survey.open.iter().filter(|(place, _)| self.excluded(survey, path, place, None).is_none());
        let through = open.filter_map(|(place, states)| {
            let (rest, _) = place.rest.as_ref()?;
            rest.is_definite(*states).then(|| (place.entry, rest.clone(), *states))
        });
        through.collect()
    }

    /// Follows a symbolic link that was found during a scan to where it leads. One on the way to what wildcards match,
    /// or that is itself the root of an entry with wildcards, is followed to whatever is there; one below a root where
    /// the rule follows links, to a file: then `target` has the rule of `link`, one that is `weak` only where no other
    /// has one. Tells whether it is followed.
    pub(crate) fn follow_link(&mut self, link: &Path, target: &Path, weak: bool) -> bool {
        let survey = self.survey(link);
        let through = self.through(&survey, link);
        let best = self.best(&survey, link).filter(|_| self.options(target).is_none()).map(|best| {
            let is_root = best.place.rest.is_some() && best.root == survey.length;
            let is_below = self.group_of(best.place.entry).follow && best.root < survey.length;
            (best.place.entry, is_root, is_below)
        });
        let is_followed = !through.is_empty();
        for (entry, rest, states) in through {
            let reach = self.rules.entries[entry].reach;
            self.put_root(link, target, Coming { entry, rest: Some((rest, states)), reach, weak });
        }
        match best {
            Some((entry, true, _)) => {
                let reach = self.rules.entries[entry].reach;
                self.put_root(link, target, Coming { entry, rest: None, reach, weak });
            }
            Some((entry, _, true)) => _ = self.put(target, Coming { entry, rest: None, reach: 0, weak }),
            _ => return is_followed,
        }
        true
    }

    fn put_root(&mut self, link: &Path, target: &Path, coming: Coming) {
        let rule = &self.rules.entries[coming.entry];
        let (text, recursive) = (rule.text.clone(), rule.recursive);
        let wildcard = coming.rest.is_some();
        if self.put(target, coming) {
            self.roots.push(Root {
                path: target.to_owned(),
                configured: link.to_owned(),
                entry: text,
                recursive,
                wildcard,
                link_to: None,
            });
        }
    }

    fn group_of(&self, entry: usize) -> &Group {
        &self.rules.groups[self.rules.entries[entry].group]
    }

    pub(super) fn survey<'a>(&'a self, path: &Path) -> Survey<'a> {
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
                        Some((rest, from)) => places.push((place, rest, *from, None)),
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
                survey.open.push((place, states));
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
    fn nearness(&self, candidate: &Candidate<'_>) -> (bool, usize, bool, bool, usize) {
        let Candidate { place, root } = candidate;
        (!place.weak, *root, !self.rules.entries[place.entry].recursive, place.rest.is_none(), place.entry)
    }

    /// The nearest entry that does not exclude the path.
    pub(super) fn best<'a>(&self, survey: &'a Survey<'a>, path: &Path) -> Option<&'a Candidate<'a>> {
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
        Some(&self.group_of(entry).options)
    }

    /// The rule of all names directly in a directory at once, so that a scan need not ask for each: what
    /// [`Coverage::options`] would say.
    #[must_use]
    pub(crate) fn options_of_names(&self, directory: &Path) -> NamesRule<'_> {
        let mut survey = self.survey(directory);
        let excludes_names = |one: &Candidate<'_>| {
            self.group_of(one.place.entry).exclusions.iter().any(|one| one.scope != Scope::Absolute)
        };
        if survey.goes_on || survey.candidates.iter().any(excludes_names) {
            return NamesRule::Each;
        }
        // One level further down; no exclusion looks at names, so the directory's own path answers for all.
        survey.length += 1;
        let length = survey.length;
        survey.candidates.retain(|one| length - one.root <= one.place.reach);
        let best = self.best(&survey, directory).map(|best| self.group_of(best.place.entry));
        NamesRule::Alike(best.map(|group| &*group.options))
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
        self.best(&survey, path).is_some_and(|best| self.group_of(best.place.entry).follow)
    }

    /// Whether a symbolic link at this path would be followed, see `Coverage::follow_link`.
    #[must_use]
    pub fn may_follow(&self, path: &Path) -> bool {
        let survey = self.survey(path);
        let is_best = self.best(&survey, path).is_some_and(|best| {
            let is_root = best.place.rest.is_some() && best.root == survey.length;
            is_root || best.root < survey.length && self.group_of(best.place.entry).follow
        });
        is_best || !self.through(&survey, path).is_empty()
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
        self.interest_of(&self.survey(directory), directory)
    }

    fn interest_of(&self, survey: &Survey<'_>, directory: &Path) -> Interest {
        if survey.forbidden {
            return Interest::Nothing;
        }
        let covers = |one: &Candidate<'_>| {
            survey.length - one.root < one.place.reach
                && self.excluded(survey, directory, one.place, Some(one.root)).is_none()
        };
        if survey.candidates.iter().any(covers) {
            Interest::Covered
        } else if self.leads(survey, directory) {
            Interest::OnTheWay
        } else {
            Interest::Nothing
        }
    }

    fn leads(&self, survey: &Survey<'_>, path: &Path) -> bool {
        survey.leads
            || survey.open.iter().any(|(place, _)| self.excluded(survey, path, place, None).is_none())
    }

    /// Whether anything below a directory may be watched.
    #[must_use]
    pub(crate) fn descends(&self, directory: &Path) -> bool {
        self.interest(directory) != Interest::Nothing
    }

    /// Whether the coming or going of a path matters: it is watched, or on the way to what is.
    #[must_use]
    pub(crate) fn concerns(&self, path: &Path) -> bool {
        self.concern(path).is_some()
    }

    /// The same, and what a directory of this name would be of.
    pub(crate) fn concern(&self, path: &Path) -> Option<Interest> {
        let survey = self.survey(path);
        let concerns = !survey.forbidden && (self.leads(&survey, path) || self.best(&survey, path).is_some());
        concerns.then(|| match self.canary.as_deref() {
            Some(canary) if canary == path => Interest::OnTheWay,
            _ => self.interest_of(&survey, path),
        })
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
            let group = self.group_of(entry);
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
