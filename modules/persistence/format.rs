//! Reads the lines of configuration that start something. Pure: text in, items out.

mod apt;
pub(crate) mod lines;
mod udev;

use self::lines::{Join, Line, assignment, dangerous, lines, shown_value, words};
use crate::includes::word_of_shell;

/// Most items of one file; whoever gets as many does not know whether there are more.
pub(crate) const MAX_ITEMS: usize = 10_000;

/// Longest name of what several items stand in, in bytes: each item has it.
const MAX_SHOWN: usize = 256;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// As a whole.
    File,
    /// As a whole; it has to be executable to run.
    Program,
    /// A program that run-parts(8) starts, when it likes its name.
    RunParts,
    /// Every line that is no comment.
    Lines,
    /// The same, where a backslash at the end continues a line.
    JoinedLines,
    /// Lines `KEY = VALUE` with one of these keys, in any case; `*` matches anything.
    Keys(&'static [&'static str]),
    /// Lines whose first word is one of these.
    Words(&'static [&'static str]),
    /// Lines with one of these texts in them.
    Has(&'static [&'static str]),
    /// Settings that a shell reads: assignments, and code.
    Settings,
    /// `NAME=VALUE`.
    Environment,
    Crontab {
        /// The sixth field is a user.
        user: bool,
    },
    Anacron,
    At,
    Inittab,
    Inetd,
    Pam {
        /// The first field is a service.
        service: bool,
    },
    Nsswitch,
    Fstab,
    Grub,
    AuthorizedKeys,
    Logrotate,
    Apt,
    Dpkg,
    Git,
    Docker,
    Udev,
    Interfaces,
    Sources,
    /// Paths of shells.
    Shells,
    /// Names, such as those of kernel modules.
    Names,
    PythonPath,
    Sysctl,
}

/// A place in a file that starts something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Item {
    /// From 1 on.
    pub(crate) line: u32,
    pub(crate) command: String,
    /// What makes it run, when the line says so.
    pub(crate) when: Option<String>,
    /// As whom, when the line says so.
    pub(crate) user: Option<String>,
    /// Another technique than that of its file.
    pub(crate) technique: Option<&'static str>,
    pub(crate) note: Option<String>,
    /// Nothing that installation makes has a line like this.
    pub(crate) strange: bool,
}

impl Format {
    /// Whether the file is a thing of its own, of which no line is read.
    pub(crate) fn is_whole(self) -> bool {
        matches!(self, Self::File | Self::Program | Self::RunParts)
    }

    /// Whether each item of an explained file is worth a line; otherwise the file has one.
    pub(crate) fn lists_explained(self) -> bool {
        matches!(
            self,
            Self::Crontab { .. }
                | Self::Anacron
                | Self::At
                | Self::Inittab
                | Self::Inetd
                | Self::Keys(_)
                | Self::Apt
                | Self::Dpkg
                | Self::Logrotate
                | Self::AuthorizedKeys
        )
    }
}

/// The items of a file.
pub(crate) fn items(format: Format, content: &[u8]) -> Vec<Item> {
    match format {
        Format::File | Format::Program | Format::RunParts => Vec::new(),
        Format::Lines => each(content, Join::Never, |line| Some(item(line, line.text.trim()))),
        Format::JoinedLines => each(content, Join::Shell, |line| Some(item(line, line.text.trim()))),
        Format::Names => each(content, Join::Never, |line| Some(strange(item(line, line.text.trim())))),
        Format::Shells => each(content, Join::Never, |line| Some(item(line, line.text.trim()))),
        Format::Keys(names) => each(content, Join::Perhaps, |line| key(line, names)),
        Format::Words(names) => each(content, Join::Perhaps, |line| word(line, names)),
        Format::Has(texts) => each(content, Join::Never, |line| {
            texts.iter().any(|text| line.text.contains(text)).then(|| strange(item(line, line.text.trim())))
        }),
        Format::Settings => each(content, Join::Perhaps, setting),
        Format::Environment => each(content, Join::Perhaps, variable),
        Format::Crontab { user } => each(content, Join::Never, |line| job(line, user)),
        Format::Anacron => each(content, Join::Never, anacron),
        Format::At => at(content),
        Format::Inittab => each(content, Join::Never, inittab),
        Format::Inetd => each(content, Join::Never, inetd),
        Format::Pam { service } => each(content, Join::Perhaps, |line| pam(line, service)),
        Format::Nsswitch => each(content, Join::Never, nsswitch),
        Format::Fstab => each(content, Join::Never, fstab),
        Format::Grub => each(content, Join::Never, grub),
        Format::AuthorizedKeys => each(content, Join::Never, authorized_key),
        Format::Logrotate => logrotate(content),
        Format::Apt => apt::items(content),
        Format::Dpkg => each(content, Join::Never, dpkg),
        Format::Git => git(content),
        Format::Docker => docker(content),
        Format::Udev => each(content, Join::Always, udev::rule),
        Format::Interfaces => each(content, Join::Perhaps, interface),
        Format::Sources => each(content, Join::Never, source),
        Format::PythonPath => each(content, Join::Never, |line| {
            let imports = line.text.starts_with("import ") || line.text.starts_with("import\t");
            imports.then(|| Item {
                note: Some("runs at every start of Python".to_owned()),
                ..item(line, "import")
            })
        }),
        Format::Sysctl => each(content, Join::Never, sysctl),
    }
}

/// The first line that is no comment and no interpreter; 1 when there is none.
pub(crate) fn first_line(content: &[u8]) -> u32 {
    lines(content, Join::Never).find(|line| !line.is_comment()).map_or(1, |line| line.number)
}

fn each(content: &[u8], join: Join, mut read: impl FnMut(&Line) -> Option<Item>) -> Vec<Item> {
    lines(content, join)
        .filter(|line| !line.is_comment())
        .filter_map(|line| read(&line))
        .take(MAX_ITEMS)
        .collect()
}

fn item(line: &Line, command: &str) -> Item {
    Item { line: line.number, command: command.to_owned(), ..Item::default() }
}

fn strange(item: Item) -> Item {
    Item { strange: true, ..item }
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    names.iter().any(|known| vigie_tree::matches(known.to_ascii_lowercase().as_bytes(), name.as_bytes()))
}

fn key(line: &Line, names: &[&str]) -> Option<Item> {
    let (name, value) = line.text.split_once('=')?;
    let name = name.trim().trim_start_matches('+').trim();
    // Where a semicolon begins no comment, no name begins with it either.
    (!name.starts_with(';') && is_one_of(name, names))
        .then(|| Item { note: Some(name.to_owned()), ..item(line, value.trim()) })
}

fn word(line: &Line, names: &[&str]) -> Option<Item> {
    let text = line.text.trim();
    // sshd and others take an equals sign as well as a blank.
    let end = text.find(|letter: char| letter.is_whitespace() || letter == '=').unwrap_or(text.len());
    let (name, value) = text.split_at(end);
    let name = name.trim_matches('"');
    let value = value.trim_start_matches(|letter: char| letter.is_whitespace() || letter == '=').trim();
    (is_one_of(name, names) || is_one_of(text, names))
        .then(|| Item { note: Some(name.to_owned()), ..item(line, value) })
}

/// An assignment that changes what other programs do.
fn variable(line: &Line) -> Option<Item> {
    let (name, value) = assignment(&line.text)?;
    dangerous(name).then(|| {
        let technique = match name {
            "BASH_ENV" | "ENV" | "PROMPT_COMMAND" => Some("bash-env"),
            _ => None,
        };
        Item { technique, ..strange(item(line, &shown_value(name, value))) }
    })
}

/// A line of settings that a shell reads: a variable that the loader reads, or code.
fn setting(line: &Line) -> Option<Item> {
    if let Some(mut found) = variable(line) {
        found.technique = found.technique.or(Some("sd-envfile"));
        return Some(found);
    }
    // The code itself is not shown.
    let is_code = !line.is_part && (assignment(&line.text).is_none() || runs(&line.text));
    is_code.then(|| Item { note: Some("code".to_owned()), ..strange(item(line, "")) })
}

/// Whether a command stands in or behind an assignment.
fn runs(text: &str) -> bool {
    /// How distributions' settings of GRUB ask for the name of the system.
    const KNOWN: [&str; 5] = [
        "GRUB_DISTRIBUTOR=\"$(sed 's, release .*$,,g' /etc/system-release)\"",
        "GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`",
        "GRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-Debian} ) 2>/dev/null || echo Debian`",
        "GRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-Ubuntu} ) 2>/dev/null || echo Ubuntu`",
        "GRUB_DISTRIBUTOR=`( . /etc/os-release && echo ${NAME} )`",
    ];
    let Some((_, value)) = text.split_once('=').filter(|_| !KNOWN.contains(&text.trim())) else {
        return false;
    };
    let (_, after) = word_of_shell(value, None);
    let after = after.trim();
    let is_list = value.starts_with('(');
    value.contains('`') || value.contains("$(") || !(is_list || after.is_empty() || after.starts_with('#'))
}

fn job(line: &Line, has_user: bool) -> Option<Item> {
    let text = line.text.trim();
    if let Some((name, value)) = assignment(text) {
        let changes = dangerous(name) || matches!(name, "SHELL");
        return changes.then(|| item(line, &shown_value(name, value)));
    }
    let fields = if text.starts_with('@') { 1 } else { 5 };
    let (schedule, rest) = words(text, fields)?;
    let (user, rest) = if has_user {
        let (user, rest) = words(rest, 1)?;
        (Some(user.to_owned()), rest)
    } else {
        (None, rest)
    };
    if rest.is_empty() {
        return None;
    }
    Some(Item { when: Some(schedule.to_owned()), user, ..item(line, &up_to_percent(rest)) })
}

/// An unescaped percent sign ends the command; what follows is its input.
fn up_to_percent(command: &str) -> String {
    let mut escaped = false;
    let mut plain = String::new();
    for letter in command.chars() {
        match letter {
            '%' if escaped => {
                plain.pop();
                plain.push('%');
            }
            '%' => break,
            letter => plain.push(letter),
        }
        escaped = letter == '\\' && !escaped;
    }
    plain
}

fn anacron(line: &Line) -> Option<Item> {
    if let Some((name, value)) = assignment(&line.text) {
        return dangerous(name).then(|| item(line, &shown_value(name, value)));
    }
    let (period, rest) = words(line.text.trim(), 1)?;
    let (_, command) = words(rest, 2)?;
    Some(Item { when: Some(format!("every {period} days")), ..item(line, command) })
}

/// A job of at(1) begins with the environment that it was given in.
fn at(content: &[u8]) -> Vec<Item> {
    let is_frame = |text: &str| {
        let text = text.trim();
        ["umask ", "cd ", "echo ", "exit ", "}", "export "].iter().any(|start| text.starts_with(start))
            || assignment(text).is_some()
    };
    let user = lines(content, Join::Never).find_map(|line| {
        let rest = line.text.split_once("uid=")?.1;
        rest.split_whitespace().next().map(|uid| format!("uid {uid}"))
    });
    let first = lines(content, Join::Never).find(|line| !line.is_comment() && !is_frame(&line.text));
    // What the job does is a script, which is not shown.
    first.map(|line| Item { user, ..item(&line, "") }).into_iter().collect()
}

fn inittab(line: &Line) -> Option<Item> {
    let mut fields = line.text.trim().splitn(4, ':');
    let (levels, action, process) = (fields.nth(1)?, fields.next()?, fields.next()?);
    (!process.is_empty()).then(|| Item { when: Some(format!("{action} {levels}")), ..item(line, process) })
}

fn inetd(line: &Line) -> Option<Item> {
    let (socket, rest) = words(line.text.trim(), 4)?;
    let (user, command) = words(rest, 1)?;
    let service = socket.split_whitespace().next()?;
    let when = Some(format!("connection to {service}"));
    (!command.is_empty()).then(|| Item { when, user: Some(user.to_owned()), ..item(line, command) })
}

fn pam(line: &Line, has_service: bool) -> Option<Item> {
    let text = line.text.trim();
    let text = if has_service { words(text, 1)?.1 } else { text };
    if text.starts_with("@include") {
        return Some(item(line, text));
    }
    let (kind, rest) = words(text, 1)?;
    let kind = kind.trim_start_matches('-');
    if !["auth", "account", "password", "session"].iter().any(|known| known.eq_ignore_ascii_case(kind)) {
        return None;
    }
    let rest = rest.trim();
    let (control, module) = match rest.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => words(rest, 1)?,
    };
    let module = module.trim();
    let name = module.split_whitespace().next().unwrap_or_default();
    let runs = ["pam_exec.so", "pam_python.so", "pam_script.so"].iter().any(|known| name.ends_with(known));
    let opens = name.ends_with("pam_permit.so") && control == "sufficient";
    Some(Item { strange: runs || opens || name.starts_with('/'), ..item(line, text) })
}

fn nsswitch(line: &Line) -> Option<Item> {
    const KNOWN: [&str; 23] = [
        "files",
        "compat",
        "systemd",
        "dns",
        "db",
        "nis",
        "nisplus",
        "hesiod",
        "myhostname",
        "mymachines",
        "resolve",
        "sss",
        "ldap",
        "winbind",
        "altfiles",
        "cache",
        "extrausers",
        "wins",
        "usrfiles",
        "mdns4_minimal",
        "mdns4",
        "mdns_minimal",
        "mdns",
    ];
    let (database, services) = line.text.split_once(':')?;
    // What stands in brackets says when to go on.
    let mut in_brackets = false;
    let strangers: Vec<&str> = services
        .split_whitespace()
        .filter(|word| {
            let action = in_brackets || word.starts_with('[');
            in_brackets = action && !word.ends_with(']');
            !action && !KNOWN.contains(word)
        })
        .collect();
    (!strangers.is_empty()).then(|| {
        let command =
            strangers.iter().map(|name| format!("libnss_{name}.so.2")).collect::<Vec<_>>().join(" ");
        strange(Item { note: Some(database.trim().to_owned()), ..item(line, &command) })
    })
}

/// Ordinary mounts start nothing. What lies over programs, and what systemd makes units of, may.
fn fstab(line: &Line) -> Option<Item> {
    let fields: Vec<&str> = line.text.split_whitespace().collect();
    let [source, point, kind, options, ..] = *fields.as_slice() else { return None };
    let options: Vec<&str> = options.split(',').collect();
    let covers = ["/usr/", "/bin", "/sbin", "/lib", "/etc", "/proc/", "/opt/"]
        .iter()
        .any(|top| point.starts_with(top));
    let program = kind.starts_with("fuse") || source.contains('#');
    let makes_units = options.iter().any(|option| {
        option.starts_with("x-systemd.")
            && !option.starts_with("x-systemd.device-timeout")
            && !option.starts_with("x-systemd.growfs")
    });
    let shows_elsewhere =
        options.iter().any(|option| matches!(*option, "bind" | "rbind")) || kind == "overlay";
    let strange = covers || program || shows_elsewhere;
    (strange || makes_units).then(|| Item { strange, ..item(line, line.text.trim()) })
}

/// Words of a kernel command line that start something or switch a guard off.
fn grub(line: &Line) -> Option<Item> {
    const STARTS: [&str; 14] = [
        "init=",
        "rdinit=",
        "systemd.run",
        "systemd.unit=",
        "systemd.wants=",
        "rd.break",
        "module_blacklist=",
        "modules_load=",
        "modules-load=",
        "ima_appraise=off",
        "selinux=0",
        "apparmor=0",
        "audit=0",
        "enforcing=0",
    ];
    let found: Vec<&str> = line
        .text
        .split(|letter: char| letter.is_whitespace() || letter == '"' || letter == '\'')
        .filter(|word| STARTS.iter().any(|start| word.starts_with(start)))
        .collect();
    (!found.is_empty()).then(|| strange(item(line, &found.join(" "))))
}

fn authorized_key(line: &Line) -> Option<Item> {
    let text = line.text.trim();
    // Options end at the first blank outside quotes.
    let mut quoted = false;
    let mut escaped = false;
    let end = text.find(|letter: char| {
        let ends = letter.is_whitespace() && !quoted;
        if letter == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = letter == '\\' && !escaped;
        ends
    });
    let options = &text[..end.unwrap_or(text.len())];
    let lower = options.to_ascii_lowercase();
    let at = lower.find("command=\"").filter(|at| *at == 0 || lower[..*at].ends_with(','));
    if let Some(at) = at {
        let value = &options[at + "command=\"".len()..];
        let mut command = String::new();
        let mut letters = value.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '"' => break,
                '\\' => command.extend(letters.next()),
                letter => command.push(letter),
            }
        }
        return Some(Item { technique: Some("ssh-authkeys-cmd"), ..item(line, &command) });
    }
    if lower.contains("environment=\"") {
        return Some(Item {
            technique: Some("ssh-authkeys-cmd"),
            note: Some("environment".to_owned()),
            ..item(line, "")
        });
    }
    // The key itself is not shown: the type and the comment are.
    let plain: Vec<&str> = text.split_whitespace().filter(|word| !word.starts_with("AAAA")).collect();
    Some(item(line, &plain.join(" ")))
}

fn logrotate(content: &[u8]) -> Vec<Item> {
    const SCRIPTS: [&str; 5] = ["prerotate", "postrotate", "firstaction", "lastaction", "preremove"];
    let mut items = Vec::new();
    let mut script: Option<&str> = None;
    for line in lines(content, Join::Never) {
        if items.len() >= MAX_ITEMS {
            break;
        }
        let text = line.text.trim();
        match script {
            Some(_) if text == "endscript" => script = None,
            Some(name) if !text.is_empty() && !text.starts_with('#') => {
                items.push(Item { when: Some(name.to_owned()), ..item(&line, text) });
            }
            Some(_) => {}
            None => {
                // What compresses the logs is a program of one's own, if one likes.
                if let Some((name, command)) =
                    words(text, 1).filter(|(name, _)| name.ends_with("compresscmd"))
                {
                    items.push(Item { when: Some(name.to_owned()), ..item(&line, command) });
                }
                script = SCRIPTS.iter().copied().find(|name| text == *name);
            }
        }
    }
    items
}

fn dpkg(line: &Line) -> Option<Item> {
    let text = line.text.trim();
    let end = text.find(|letter: char| letter.is_whitespace() || letter == '=').unwrap_or(text.len());
    let (name, value) = text.split_at(end);
    let value = value.trim_start_matches(|letter: char| letter.is_whitespace() || letter == '=');
    let name = name.trim_start_matches('-');
    let runs = name.ends_with("-invoke") || matches!(name, "admindir" | "instdir" | "root" | "status-logger");
    runs.then(|| Item { when: Some(name.to_owned()), ..item(line, value) })
}

fn git(content: &[u8]) -> Vec<Item> {
    const KEYS: [(&str, &str); 36] = [
        ("core", "hookspath"),
        ("core", "pager"),
        ("core", "fsmonitor"),
        ("core", "sshcommand"),
        ("core", "editor"),
        ("core", "askpass"),
        ("core", "attributesfile"),
        ("core", "gitproxy"),
        ("core", "alternaterefscommand"),
        ("credential*", "helper"),
        ("include*", "path"),
        ("init", "templatedir"),
        ("filter.*", "clean"),
        ("filter.*", "smudge"),
        ("filter.*", "process"),
        ("diff", "external"),
        ("diff.*", "command"),
        ("diff.*", "textconv"),
        ("merge.*", "driver"),
        ("pager", "*"),
        ("gpg*", "program"),
        ("sequence", "editor"),
        ("uploadpack", "packobjectshook"),
        ("remote.*", "uploadpack"),
        ("remote.*", "receivepack"),
        ("difftool.*", "cmd"),
        ("mergetool.*", "cmd"),
        ("browser.*", "cmd"),
        ("safe", "directory"),
        ("trailer.*", "command"),
        ("trailer.*", "cmd"),
        ("man.*", "cmd"),
        ("guitool.*", "cmd"),
        ("tar.*", "command"),
        ("submodule.*", "update"),
        ("interactive", "difffilter"),
    ];
    let mut items = Vec::new();
    // What is looked for in a section is the same for all its lines, however long its name is.
    let mut section = String::new();
    let mut keys: Vec<&str> = Vec::new();
    for line in lines(content, Join::Perhaps).filter(|line| !line.is_comment()) {
        let mut text = line.text.trim();
        if let Some(rest) = text.strip_prefix('[')
            && let Some((name, after)) = rest.split_once(']')
        {
            section = name.replace([' ', '\t'], ".").replace('"', "").replace("..", ".");
            keys = KEYS.iter().filter(|(of, _)| is_one_of(&section, &[of])).map(|(_, key)| *key).collect();
            section.truncate(section.floor_char_boundary(MAX_SHOWN));
            text = after.trim();
        }
        let (name, value) = text.split_once('=').unwrap_or((text, "true"));
        let (name, value) = (name.trim(), value.trim());
        if name.starts_with(';') {
            continue;
        }
        let is_shell_alias = value.trim_matches('"').starts_with('!')
            && section.split('.').next().is_some_and(|first| first.eq_ignore_ascii_case("alias"));
        if is_one_of(name, &keys) || is_shell_alias {
            items.push(Item { note: Some(format!("{section}.{name}")), ..item(&line, value) });
        }
        if items.len() >= MAX_ITEMS {
            break;
        }
    }
    items
}

/// Containers that the engine starts by itself, or that have the host's rights.
fn docker(content: &[u8]) -> Vec<Item> {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(content) else { return Vec::new() };
    let host = value.get("HostConfig").unwrap_or(&value);
    let policy = host.pointer("/RestartPolicy/Name").and_then(serde_json::Value::as_str).unwrap_or_default();
    let mut notes = Vec::new();
    if !matches!(policy, "" | "no") {
        notes.push(format!("restart {policy}"));
    }
    if host.get("Privileged").and_then(serde_json::Value::as_bool) == Some(true) {
        notes.push("privileged".to_owned());
    }
    for (key, name) in [("PidMode", "pid"), ("NetworkMode", "network"), ("IpcMode", "ipc")] {
        if host.get(key).and_then(serde_json::Value::as_str) == Some("host") {
            notes.push(format!("{name} of the host"));
        }
    }
    if let Some(binds) = host.get("Binds").and_then(serde_json::Value::as_array) {
        notes.extend(binds.iter().filter_map(|bind| Some(format!("bind {}", bind.as_str()?))).take(100));
    }
    let command = value.get("Path").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    if notes.is_empty() && command.is_empty() {
        return Vec::new();
    }
    vec![Item { line: 1, command, note: Some(notes.join(", ")), ..Item::default() }]
}

fn interface(line: &Line) -> Option<Item> {
    const RUNS: [&str; 9] =
        ["up", "pre-up", "post-up", "down", "pre-down", "post-down", "script", "wpa-action", "dhcp-script"];
    let (name, command) = words(line.text.trim(), 1)?;
    RUNS.contains(&name).then(|| Item { when: Some(name.to_owned()), ..strange(item(line, command)) })
}

/// A source of packages; strange when it need not be signed.
fn source(line: &Line) -> Option<Item> {
    let lower = line.text.to_ascii_lowercase().replace(' ', "");
    let unsigned = ["trusted=yes", "trusted:yes", "allow-insecure=yes", "allow-insecure:yes", "gpgcheck=0"]
        .iter()
        .any(|sign| lower.contains(sign));
    let text = line.text.trim();
    if text.starts_with(';') {
        return None;
    }
    let names = ["deb ", "deb-src ", "deb\t", "uris:", "baseurl", "mirrorlist", "types:"];
    let names_one = names.iter().any(|start| text.to_ascii_lowercase().starts_with(start));
    (unsigned || names_one).then(|| Item {
        strange: unsigned,
        note: unsigned.then(|| "accepted without a signature".to_owned()),
        // Passwords can stand before the host.
        ..item(line, &without_password(text))
    })
}

fn without_password(text: &str) -> String {
    match (text.find("://"), text.find('@')) {
        (Some(start), Some(end)) if start < end && !text[start + 3..end].contains('/') => {
            format!("{}://…{}", &text[..start], &text[end..])
        }
        _ => text.to_owned(),
    }
}

/// Settings of the kernel that name a program, or that take a guard away.
fn sysctl(line: &Line) -> Option<Item> {
    const PROGRAMS: [&str; 4] =
        ["kernel.core_pattern", "kernel.modprobe", "kernel.hotplug", "kernel.poweroff_cmd"];
    const WEAKENS: [(&str, &str); 12] = [
        ("kernel.yama.ptrace_scope", "0"),
        ("kernel.kptr_restrict", "0"),
        ("kernel.dmesg_restrict", "0"),
        ("kernel.randomize_va_space", "0"),
        ("kernel.unprivileged_bpf_disabled", "0"),
        ("kernel.perf_event_paranoid", "-1"),
        ("fs.suid_dumpable", "1"),
        ("fs.protected_symlinks", "0"),
        ("fs.protected_hardlinks", "0"),
        ("fs.protected_fifos", "0"),
        ("fs.protected_regular", "0"),
        ("kernel.modules_disabled", "0"),
    ];
    let (name, value) = line.text.split_once('=')?;
    let name = name.trim().trim_start_matches('-').replace('/', ".");
    let value = value.trim();
    if PROGRAMS.contains(&name.as_str()) {
        return Some(Item { technique: Some("core-pattern"), note: Some(name), ..item(line, value) });
    }
    WEAKENS
        .contains(&(name.as_str(), value))
        .then(|| Item { note: Some("disables a protection".to_owned()), ..item(line, line.text.trim()) })
}

#[cfg(test)]
mod tests;
