//! Says where a file comes from: a package, a tool of the distribution, or nobody knows.
//!
//! Whoever may write start files as root may write the databases that are asked here as well. "Packaged" and "derived"
//! therefore say what the host's own records say, and no more.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use vigie_packagedb::owners::{Packages, Recorded};
use vigie_tree::{Digests, Entry, Root, Tree, Unread};

use crate::difference::{beside, inserted};
use crate::record::{Changed, Origin};

/// Largest file whose lines are read, in bytes.
pub(crate) const MAX_TEXT: usize = 1 << 20;

/// Largest database of alternatives, or of ucf.
const MAX_DATABASE: usize = 4 << 20;

/// Files that a package's script makes from one that the package brought, see base-files(7).
const TEMPLATES: &[(&str, &[&str])] = &[
    ("/etc/profile", &["/usr/share/base-files/profile"]),
    ("/etc/motd", &["/usr/share/base-files/motd"]),
    ("/etc/nsswitch.conf", &["/usr/share/libc-bin/nsswitch.conf", "/usr/share/base-files/nsswitch.conf"]),
    ("/root/.bashrc", &["/usr/share/base-files/dot.bashrc"]),
    ("/root/.profile", &["/usr/share/base-files/dot.profile"]),
    ("/etc/inputrc", &["/usr/share/readline/inputrc"]),
    ("/etc/ssh/sshd_config", &["/usr/share/openssh/sshd_config"]),
    ("/etc/default/grub", &["/usr/share/grub/default/grub"]),
    ("/etc/default/ssh", &["/usr/share/openssh/default"]),
    ("/etc/rsyslog.conf", &["/usr/share/rsyslog/rsyslog.conf"]),
    ("/etc/postfix/master.cf", &["/usr/share/postfix/master.cf.dist"]),
    ("/etc/php.ini", &["/usr/lib/php/php.ini-production"]),
];

/// Files that are made at installation and meant to be edited: their lines are judged one by one.
const GENERATED: &[(&str, &str)] = &[
    ("/etc/environment", "libpam-runtime"),
    ("/etc/shells", "debianutils"),
    ("/etc/modules", "kmod"),
    ("/etc/initramfs-tools/modules", "initramfs-tools"),
    ("/etc/fstab", "installation"),
    ("/etc/network/interfaces", "ifupdown"),
    ("/etc/apt/sources.list", "installation"),
    ("/etc/apt/sources.list.d/debian.sources", "installation"),
    ("/etc/apt/sources.list.d/ubuntu.sources", "installation"),
    ("/etc/default/locale", "locales"),
    ("/etc/locale.conf", "locales"),
    ("/etc/default/keyboard", "keyboard-configuration"),
    ("/etc/default/console-setup", "console-setup"),
    ("/etc/default/hwclock", "util-linux"),
    ("/etc/default/grub", "grub"),
    ("/etc/motd", "base-files"),
    ("/etc/hosts.allow", "libwrap0"),
    ("/etc/hosts.deny", "libwrap0"),
    ("/usr/lib/udev/hwdb.bin", "systemd-hwdb"),
    ("/lib/udev/hwdb.bin", "systemd-hwdb"),
    ("/etc/udev/hwdb.bin", "systemd-hwdb"),
    ("/etc/aliases", "the mail server"),
    ("/etc/apt/apt.conf.d/00CDMountPoint", "installation"),
    ("/etc/apt/apt.conf.d/00trustcdrom", "installation"),
    ("/boot/grub/grub.cfg", "grub-mkconfig"),
    ("/boot/grub2/grub.cfg", "grub2-mkconfig"),
];

/// Where databases of packages are.
const DATABASES: [&str; 9] = [
    "/var/lib/dpkg/status",
    "/lib/apk/db/installed",
    "/usr/lib/apk/db/installed",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/Packages.db",
    "/usr/lib/sysimage/rpm/Packages",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages.db",
    "/var/lib/rpm/Packages",
];

/// Where a file comes from, and who owns it.
#[derive(Debug, Clone)]
pub(crate) struct Explained {
    pub(crate) origin: Origin,
    pub(crate) package: Option<String>,
    pub(crate) note: Option<&'static str>,
}

impl Explained {
    fn of(origin: Origin) -> Self {
        Self { origin, package: None, note: None }
    }
}

/// Knows the records of a host.
pub(crate) struct Explainer<'t> {
    tree: &'t Tree,
    packages: Packages,
    asked_at: Instant,
    /// A database of packages is there.
    knows_packages: bool,
    /// Digests that ucf recorded.
    ucf: HashMap<Vec<u8>, [u8; 16]>,
    /// The lines of each file of update-alternatives, for links whose own name has none.
    alternatives: OnceCell<Vec<HashSet<Vec<u8>>>>,
}

impl<'t> Explainer<'t> {
    pub(crate) fn new(tree: &'t Tree, root: &Root) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a standard module runs in real time only")]
        let asked_at = Instant::now();
        let is_there =
            |path: &str| tree.find(path.as_bytes()).is_ok_and(|entry| entry.path == path.as_bytes());
        let knows_packages = DATABASES.iter().any(|path| {
            is_there(path) || tree.find(path.as_bytes()).is_ok_and(|entry| entry.status.is_file())
        });
        let ucf = tree.read("/var/lib/ucf/hashfile", MAX_DATABASE).unwrap_or_default();
        Self {
            tree,
            packages: Packages::at(root),
            asked_at,
            knows_packages,
            ucf: read_ucf(&ucf),
            alternatives: OnceCell::new(),
        }
    }

    /// Whether there is a database of packages that can be read.
    pub(crate) fn knows_packages(&self) -> bool {
        self.knows_packages
    }

    /// What is recorded of a path without links in its directories.
    pub(crate) fn recorded(&mut self, path: &[u8]) -> Option<Recorded> {
        // Nothing is read twice for one answer: the time does not go on.
        self.packages.find(Path::new(OsStr::from_bytes(path)), self.asked_at)
    }

    /// The package that owns what lies at a path, with its links followed.
    pub(crate) fn owner(&mut self, path: &[u8]) -> Option<String> {
        if let Ok(entry) = self.tree.look(path)
            && let Some(recorded) = self.recorded(&entry.path)
        {
            return Some(recorded.package);
        }
        let entry = self.tree.find(path).ok()?;
        self.recorded(&entry.path).map(|recorded| recorded.package)
    }

    /// The content of a packaged file, when it is as it was packaged.
    fn trusted(&mut self, path: &str) -> Option<Vec<u8>> {
        let entry = self.tree.find(path.as_bytes()).ok()?;
        let recorded = self.recorded(&entry.path)?;
        let content = entry.read(MAX_TEXT).ok()?;
        (recorded.matches(&*content).ok()? == Some(true)).then_some(content)
    }

    /// Where a regular file comes from. `content` is there when it is small enough to be read.
    pub(crate) fn file(
        &mut self,
        entry: &Entry,
        digests: Option<&Digests>,
        content: Option<&[u8]>,
    ) -> Explained {
        if let Some(recorded) = self.recorded(&entry.path) {
            return self.packaged(entry, &recorded, digests, content);
        }
        let origin = self.made(entry, digests, content).unwrap_or(if self.knows_packages {
            Origin::Local
        } else {
            Origin::Unknown
        });
        Explained::of(origin)
    }

    fn packaged(
        &mut self,
        entry: &Entry,
        recorded: &Recorded,
        digests: Option<&Digests>,
        content: Option<&[u8]>,
    ) -> Explained {
        let package = Some(recorded.package.clone());
        let (origin, note) = match (recorded.md5, digests) {
            (Some(md5), Some(digests)) if md5 == digests.md5 => (Origin::Packaged, None),
            (Some(md5), Some(_)) => {
                let changed = content.map_or(Changed::Anywhere, |content| inserted(content, &md5));
                (Origin::Modified(changed), None)
            }
            (Some(_), None) => (Origin::Unknown, Some("its content was not compared")),
            (None, _) if recorded.sha1.is_some() || recorded.sha256.is_some() => {
                match entry.open().map(|file| recorded.matches(file)) {
                    Ok(Ok(Some(true))) => (Origin::Packaged, None),
                    Ok(Ok(_)) => (Origin::Modified(Changed::Anywhere), None),
                    _ => (Origin::Unknown, Some("its content was not compared")),
                }
            }
            (None, _) => (Origin::Packaged, Some("its package records no digest of it")),
        };
        Explained { origin, package, note }
    }

    /// Looks for a tool that makes such a file.
    fn made(&mut self, entry: &Entry, digests: Option<&Digests>, content: Option<&[u8]>) -> Option<Origin> {
        let path = std::str::from_utf8(&entry.path).ok()?;
        if let Some(content) = content {
            if let Some((_, templates)) = TEMPLATES.iter().find(|(made, _)| *made == path) {
                for template in *templates {
                    if let Some(template) = self.trusted(template) {
                        return Some(match beside(content, &template) {
                            None => Origin::Derived("a template of its package"),
                            Some(changed) => Origin::Modified(changed),
                        });
                    }
                }
            }
            if let Some(origin) = self.pam(path, content) {
                return Some(origin);
            }
            if let Some(origin) = self.binary_format(path, content) {
                return Some(origin);
            }
            if path == "/etc/ssl/certs/ca-certificates.crt" {
                return Some(self.bundle(content));
            }
        }
        if let (Some(recorded), Some(digests)) = (self.ucf.get(&entry.path), digests) {
            return Some(if *recorded == digests.md5 {
                Origin::Derived("ucf")
            } else {
                Origin::Modified(content.map_or(Changed::Anywhere, |content| inserted(content, recorded)))
            });
        }
        GENERATED.iter().find(|(made, _)| *made == path).map(|(_, by)| Origin::Generated(by))
    }

    /// The certificates of a bundle are those of packages; the first line of each other one is told.
    fn bundle(&mut self, content: &[u8]) -> Origin {
        let mut known: HashSet<Vec<u8>> = HashSet::new();
        for entry in self.tree.glob("/usr/share/ca-certificates/**", &mut Vec::new()) {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            if let Some(certificate) = self.trusted(&path) {
                known.extend(certificates(&certificate).into_iter().map(|(_, body)| body));
            }
        }
        let strange = certificates(content).into_iter().filter(|(_, body)| !known.contains(body));
        let strange: std::collections::BTreeSet<u32> = strange.map(|(line, _)| line).collect();
        if strange.is_empty() {
            Origin::Derived("update-ca-certificates")
        } else {
            Origin::Modified(Changed::Lines(strange))
        }
    }

    /// What update-binfmts notes of a format that a package imported: the interpreter is the sixth line.
    fn binary_format(&mut self, path: &str, content: &[u8]) -> Option<Origin> {
        let name = path.strip_prefix("/var/lib/binfmts/")?;
        let imported = self.trusted(&format!("/usr/share/binfmts/{name}"))?;
        let value = |key: &str| {
            let text = String::from_utf8_lossy(&imported);
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key))?.trim().to_owned();
            Some(line)
        };
        let content = String::from_utf8_lossy(content);
        let mut noted = content.lines().skip(5);
        let is_same = noted.next().map(str::to_owned) == value("interpreter ")
            && noted.next().unwrap_or_default() == value("detector ").unwrap_or_default();
        is_same.then_some(Origin::Derived("update-binfmts"))
    }

    /// What pam-auth-update writes: the frame of `/usr/share/pam`, with the lines of packaged profiles in it.
    fn pam(&mut self, path: &str, content: &[u8]) -> Option<Origin> {
        let name = path.strip_prefix("/etc/pam.d/")?;
        name.starts_with("common-").then_some(())?;
        let frame = self.trusted(&format!("/usr/share/pam/{name}"))?;
        let mut known: HashSet<String> = String::from_utf8_lossy(&frame).lines().map(squeezed).collect();
        let kind = name.strip_prefix("common-").unwrap_or_default();
        // What stands where no profile gives a line.
        let stack = kind.strip_suffix("-noninteractive").unwrap_or(kind);
        known.insert(squeezed(&format!("{stack} [default=1] pam_permit.so")));
        let profiles = self.tree.list(b"/usr/share/pam-configs").unwrap_or_default();
        for profile in profiles {
            let path = String::from_utf8_lossy(&profile.path).into_owned();
            let Some(profile) = self.trusted(&path) else { continue };
            known.extend(profile_lines(&String::from_utf8_lossy(&profile), kind));
        }
        let strange = String::from_utf8_lossy(content)
            .lines()
            .zip(1_u32..)
            .filter(|(line, _)| {
                let line = squeezed(line);
                !line.is_empty() && !line.starts_with('#') && !known.contains(&line)
            })
            .map(|(_, number)| number)
            .collect::<std::collections::BTreeSet<u32>>();
        Some(if strange.is_empty() {
            Origin::Derived("pam-auth-update")
        } else {
            Origin::Modified(Changed::Lines(strange))
        })
    }

    /// Where a symbolic link comes from.
    pub(crate) fn link(&mut self, entry: &Entry) -> Explained {
        if let Some(recorded) = self.recorded(&entry.path) {
            let package = Some(recorded.package.clone());
            // A digest is recorded of files only.
            return if recorded.is_regular() {
                let origin = Origin::Modified(Changed::Anywhere);
                Explained { origin, package, note: Some("a link replaces the packaged file") }
            } else {
                Explained { origin: Origin::Packaged, package, note: None }
            };
        }
        Explained::of(self.made_link(entry).unwrap_or(if self.knows_packages {
            Origin::Local
        } else {
            Origin::Unknown
        }))
    }

    fn made_link(&mut self, entry: &Entry) -> Option<Origin> {
        let target = entry.target().ok()?;
        let path = entry.path.clone();
        let name = entry.name().to_vec();
        let directory = &path[..path.len() - name.len()];
        if is_rc_link(directory, &name) {
            let script = self.tree.find(&path).ok()?;
            let is_script =
                script.path.starts_with(b"/etc/init.d/") || script.path.starts_with(b"/etc/rc.d/init.d/");
            let is_its_own = name.get(3..) == Some(script.name());
            if is_script && is_its_own && self.recorded(&script.path).is_some() {
                return Some(Origin::Derived("update-rc.d"));
            }
            return None;
        }
        if let Some(origin) = self.alternative(&path, &target) {
            return Some(origin);
        }
        let enables = ["/etc/apache2/", "/etc/lighttpd/", "/etc/php/", "/etc/nginx/", "/etc/fonts/"]
            .iter()
            .any(|top| path.starts_with(top.as_bytes()));
        let certificate = directory == b"/etc/ssl/certs/";
        if enables || certificate {
            let file = self.tree.find(&path).ok()?;
            let bundle = file.path.starts_with(b"/etc/ssl/certs/");
            if self.recorded(&file.path).is_some()
                || self.ucf.contains_key(&file.path)
                || (certificate && bundle)
            {
                return Some(Origin::Derived(if certificate {
                    "update-ca-certificates"
                } else {
                    "the package's script"
                }));
            }
        }
        // ldconfig makes NAME.so.1 beside NAME.so.1.2.
        if !target.contains(&b'/') && name.windows(3).any(|part| part == b".so") {
            let library = self.tree.find(&path).ok()?;
            if self.recorded(&library.path).is_some() {
                return Some(Origin::Derived("ldconfig"));
            }
        }
        None
    }

    /// A link that update-alternatives recorded, with one of the targets that it recorded.
    fn alternative(&mut self, path: &[u8], target: &[u8]) -> Option<Origin> {
        let name = match path.strip_prefix(b"/etc/alternatives/") {
            Some(name) => name,
            None => target.strip_prefix(b"/etc/alternatives/")?,
        };
        let name = std::str::from_utf8(name).ok()?;
        let wanted = if path.starts_with(b"/etc/alternatives/") { target } else { path };
        let knows =
            |database: &[u8]| database.split(|byte| *byte == b'\n').any(|line| same_path(line, wanted));
        // A slave stands in the file of its master.
        if let Ok(database) = self.tree.read(&format!("/var/lib/dpkg/alternatives/{name}"), MAX_DATABASE) {
            return knows(&database).then_some(Origin::Derived("update-alternatives"));
        }
        let masters = self.alternatives.get_or_init(|| {
            let masters = self.tree.list(b"/var/lib/dpkg/alternatives").unwrap_or_default();
            let databases = masters.iter().filter_map(|master| master.read(MAX_DATABASE).ok());
            let lines = |database: Vec<u8>| {
                let lines = database.split(|byte| *byte == b'\n');
                lines.flat_map(|line| [line.to_vec(), without_usr(line).to_vec()]).collect()
            };
            databases.map(lines).collect()
        });
        let is_slave = masters
            .iter()
            .any(|lines| lines.contains(without_usr(wanted)) && lines.contains(name.as_bytes()));
        is_slave.then_some(Origin::Derived("update-alternatives"))
    }

    /// Whether a file in a home is the one that new accounts get; `None` when there is no such file.
    pub(crate) fn skeleton(&mut self, below_home: &[u8], content: &[u8]) -> Option<Origin> {
        let path = [b"/etc/skel", below_home].concat();
        let skeleton = self.trusted(std::str::from_utf8(&path).ok()?)?;
        Some(match beside(content, &skeleton) {
            None => Origin::Derived("adduser"),
            Some(changed) => Origin::Modified(changed),
        })
    }

    /// Reads a file as whole for comparison with others.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, Unread> {
        self.tree.read(path, MAX_DATABASE)
    }
}

/// `/bin/x` and `/usr/bin/x` are one on hosts with merged `/usr`.
fn same_path(a: &[u8], b: &[u8]) -> bool {
    without_usr(a) == without_usr(b)
}

fn without_usr(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"/usr").unwrap_or(path)
}

fn is_rc_link(directory: &[u8], name: &[u8]) -> bool {
    let directory = directory.strip_prefix(b"/etc/rc.d/").or_else(|| directory.strip_prefix(b"/etc/"));
    let is_directory =
        directory.is_some_and(|last| last.len() == 6 && last.starts_with(b"rc") && last.ends_with(b".d/"));
    let [kind, tens, units, ..] = *name else { return false };
    is_directory && matches!(kind, b'S' | b'K') && tens.is_ascii_digit() && units.is_ascii_digit()
}

/// The certificates of a text in PEM form, each with the line that it begins in.
fn certificates(content: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut all: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut inside = false;
    for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u32..) {
        let line = line.trim_ascii();
        if line == b"-----BEGIN CERTIFICATE-----" || line == b"-----BEGIN TRUSTED CERTIFICATE-----" {
            all.push((number, Vec::new()));
            inside = true;
        } else if line.starts_with(b"-----END") {
            inside = false;
        } else if inside && let Some((_, body)) = all.last_mut() {
            body.extend_from_slice(line);
        }
    }
    all
}

/// Lines `DIGEST  PATH`.
fn read_ucf(content: &[u8]) -> HashMap<Vec<u8>, [u8; 16]> {
    let line = |line: &[u8]| {
        let (digest, path) = line.split_at_checked(32)?;
        let digest = data_encoding::HEXLOWER_PERMISSIVE.decode(digest).ok()?;
        Some((path.trim_ascii_start().to_vec(), digest.try_into().ok()?))
    };
    content.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// A line of PAM with single blanks, and without the numbers that pam-auth-update puts in.
fn squeezed(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let line = words.join(" ");
    match (line.find("[success="), line.find(']')) {
        (Some(start), Some(end)) if start < end => {
            let inside: Vec<String> = line[start + 1..end]
                .split(' ')
                .map(|action| match action.split_once('=') {
                    Some((name, value)) if value == "end" || value.parse::<u8>().is_ok() => {
                        format!("{name}=N")
                    }
                    _ => action.to_owned(),
                })
                .collect();
            format!("{}[{}{}", &line[..start], inside.join(" "), &line[end..])
        }
        _ => line,
    }
}

/// The lines that a profile of pam-auth-update gives to a stack: `Auth:`, `Auth-Initial:` and so on.
fn profile_lines(profile: &str, kind: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut field = String::new();
    for line in profile.lines() {
        if line.starts_with([' ', '\t']) {
            let stack = field.strip_suffix("-initial").unwrap_or(&field);
            let is_this = stack == kind
                || (stack == "session-interactive-only" && kind == "session")
                || (stack == "session" && kind == "session-noninteractive");
            if is_this {
                let kind = if kind == "session-noninteractive" { "session" } else { kind };
                lines.push(squeezed(&format!("{kind} {}", line.trim())));
            }
        } else if let Some((name, _)) = line.split_once(':') {
            field = name.to_ascii_lowercase();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pam_are_compared_without_their_numbers() {
        assert_eq!(
            squeezed("auth\t[success=1 default=ignore]\tpam_unix.so nullok"),
            squeezed("auth [success=end default=ignore] pam_unix.so   nullok")
        );
        assert_ne!(squeezed("auth [success=1 default=ok] x"), squeezed("auth [success=1 default=ignore] x"));
        assert_eq!(
            profile_lines(
                "Name: x\nAuth-Type: Primary\nAuth:\n\t[success=end default=ignore]\tpam_unix.so\nPassword:\n\tx\n",
                "auth"
            ),
            [squeezed("auth [success=1 default=ignore] pam_unix.so")]
        );
    }

    #[test]
    fn links_of_runlevels_are_known_by_their_place_and_name() {
        assert!(is_rc_link(b"/etc/rc2.d/", b"S01cron"));
        assert!(is_rc_link(b"/etc/rc.d/rcS.d/", b"K99x"));
        assert!(!is_rc_link(b"/etc/rc2.d/", b"README"));
        assert!(!is_rc_link(b"/etc/init.d/", b"S01cron"));
    }

    #[test]
    fn ucf_has_a_digest_before_each_path() {
        let read = read_ucf(b"00112233445566778899aabbccddeeff  /etc/a b\nno\n");

        assert_eq!(read.get(&b"/etc/a b"[..]).map(|digest| digest[1]), Some(0x11));
        assert_eq!(read.len(), 1);
    }
}
