//! What a rule can ask about, and the patterns that it asks with.

use std::net::IpAddr;

/// A field of a record or of a process that has to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Field {
    ExePath,
    ExeName,
    ExeLinks,
    /// Whether the program's file was replaced, as by an upgrade.
    ExeReplaced,
    /// Seconds since the file's inode changed.
    ExeAge,
    ExeOwner,
    ExeMode,
    Filename,
    Cwd,
    /// The first argument, what the program is called.
    Called,
    /// Any argument but the first.
    Argument,
    ArgumentCount,
    /// `-x`, `--long`, or with `=` and a pattern for the value.
    Option,
    /// Any argument, or what comes after `=` or `@` in it, as an absolute path.
    File,
    /// Any argument, and what is between `,`, `=` and `:` in it.
    Part,
    /// The first argument that is no option: what an interpreter runs.
    Script,
    /// What the descriptor is that the script or the executed file is named by.
    ScriptFile,
    /// `setuid` or `setgid`, where an argument is a mode that sets it.
    NewMode,
    Command,
    /// An interpreter that takes its program from a pipe.
    ReadsProgram,
    /// Names of commands whose output a shell's text runs.
    RunsOutput,
    /// `NAME=value` of the few variables that are looked at.
    Env,
    Uid,
    Euid,
    /// `unset`, or the number of who logged in.
    Login,
    Stdin,
    Stdout,
    Stderr,
    ParentPath,
    ParentName,
    ParentCommand,
    /// Seconds since it last asked a peer for a connection.
    ParentConnected,
    /// Seconds since it, or what it called for that, last ran a tool that downloads.
    ParentDownloaded,
    /// The same of a tool that wrote a file.
    ParentDownloadedFile,
    /// What made its parent.
    GrandparentName,
    /// Whether it leads its session, as what a new terminal was made for.
    SessionLeader,
    AncestorPath,
    AncestorName,
    AncestorCommand,
    /// What writes into standard input.
    FromName,
    FromCommand,
    /// What reads standard output.
    ToName,
    ToCommand,
    ToReadsProgram,
    /// The signal that ended it.
    Signal,
    /// `host` or `other`.
    UserNamespace,
    MountNamespace,
    PidNamespace,
    NetNamespace,
    Secure,
    ByDescriptor,
    Remote,
    RemotePort,
    Local,
    LocalPort,
    /// `open`, `refused`, `unanswered`.
    Outcome,
    NewUid,
    NewEuid,
    TracerName,
    TracerLogin,
    User,
    Host,
}

const NAMES: &[(&str, Field)] = &[
    ("exe.path", Field::ExePath),
    ("exe.name", Field::ExeName),
    ("exe.links", Field::ExeLinks),
    ("exe.replaced", Field::ExeReplaced),
    ("exe.age", Field::ExeAge),
    ("exe.owner", Field::ExeOwner),
    ("exe.mode", Field::ExeMode),
    ("filename", Field::Filename),
    ("cwd", Field::Cwd),
    ("called", Field::Called),
    ("argument", Field::Argument),
    ("arguments", Field::ArgumentCount),
    ("option", Field::Option),
    ("file", Field::File),
    ("part", Field::Part),
    ("script", Field::Script),
    ("script_file", Field::ScriptFile),
    ("new.mode", Field::NewMode),
    ("command", Field::Command),
    ("reads_program", Field::ReadsProgram),
    ("runs_output", Field::RunsOutput),
    ("env", Field::Env),
    ("uid", Field::Uid),
    ("euid", Field::Euid),
    ("login", Field::Login),
    ("stdin", Field::Stdin),
    ("stdout", Field::Stdout),
    ("stderr", Field::Stderr),
    ("parent.path", Field::ParentPath),
    ("parent.name", Field::ParentName),
    ("parent.command", Field::ParentCommand),
    ("parent.connected", Field::ParentConnected),
    ("parent.downloaded", Field::ParentDownloaded),
    ("parent.downloaded_file", Field::ParentDownloadedFile),
    ("grandparent.name", Field::GrandparentName),
    ("session_leader", Field::SessionLeader),
    ("ancestor.path", Field::AncestorPath),
    ("ancestor.name", Field::AncestorName),
    ("ancestor.command", Field::AncestorCommand),
    ("from.name", Field::FromName),
    ("from.command", Field::FromCommand),
    ("to.name", Field::ToName),
    ("to.command", Field::ToCommand),
    ("to.reads_program", Field::ToReadsProgram),
    ("signal", Field::Signal),
    ("namespace.user", Field::UserNamespace),
    ("namespace.mount", Field::MountNamespace),
    ("namespace.pid", Field::PidNamespace),
    ("namespace.net", Field::NetNamespace),
    ("secure", Field::Secure),
    ("by_descriptor", Field::ByDescriptor),
    ("remote", Field::Remote),
    ("remote_port", Field::RemotePort),
    ("local", Field::Local),
    ("local_port", Field::LocalPort),
    ("outcome", Field::Outcome),
    ("new.uid", Field::NewUid),
    ("new.euid", Field::NewEuid),
    ("tracer.name", Field::TracerName),
    ("tracer.login", Field::TracerLogin),
    ("user", Field::User),
    ("host", Field::Host),
];

impl Field {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }

    fn is_number(self) -> bool {
        matches!(
            self,
            Self::ExeLinks
                | Self::ExeAge
                | Self::ExeOwner
                | Self::ArgumentCount
                | Self::ParentConnected
                | Self::ParentDownloaded
                | Self::ParentDownloadedFile
                | Self::Signal
                | Self::Uid
                | Self::Euid
                | Self::RemotePort
                | Self::LocalPort
                | Self::NewUid
                | Self::NewEuid
        )
    }

    /// Cheap ones are asked first.
    pub(crate) fn cost(self) -> u8 {
        match self {
            Self::ExeName | Self::Secure | Self::ByDescriptor | Self::Stdin | Self::ExeLinks => 0,
            _ if self.is_number() => 0,
            Self::Remote | Self::Local | Self::ExePath | Self::Called => 1,
            Self::ParentName | Self::GrandparentName | Self::ParentPath | Self::FromName | Self::ToName => 2,
            Self::AncestorName | Self::AncestorPath | Self::AncestorCommand => 4,
            Self::Command | Self::Argument | Self::Option | Self::NewMode => 5,
            // They copy, and one reads a link.
            Self::File | Self::Part | Self::Script | Self::ScriptFile | Self::RunsOutput => 6,
            _ => 3,
        }
    }
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Text(Vec<u8>),
    Glob(Vec<u8>),
    /// In small letters; what is compared is taken so as well.
    AnyCase(Vec<u8>),
    /// An option's name, and what its value is compared with.
    Option(Vec<u8>, Option<Box<Self>>),
    /// From, to.
    Number(i64, i64),
    Network(IpAddr, u8),
}

impl Pattern {
    pub(crate) fn parse(field: Field, text: &str, ignore_case: bool) -> Result<Self, String> {
        if field.is_number() {
            return number(text).ok_or(format!(
                "{text:?} is not a number, optionally after <, <=, > or >=, or a range such as 1..999"
            ));
        }
        if matches!(field, Field::Login | Field::TracerLogin)
            && let Some(range) = number(text)
        {
            return Ok(range);
        }
        if matches!(field, Field::Remote | Field::Local) {
            return network(text).ok_or(format!("{text:?} is not a network"));
        }
        if field == Field::Option {
            let (name, value) =
                text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            if name.len() < 2 || !name.starts_with('-') || name.len() > 2 && !name.starts_with("--") {
                return Err(format!("{text:?} is no option such as \"-x\", \"--long\" or \"--long=value*\""));
            }
            let value = value.map(|value| Self::parse(Field::Argument, value, ignore_case)).transpose()?;
            return Ok(Self::Option(name.as_bytes().to_vec(), value.map(Box::new)));
        }
        let bytes = text.as_bytes().to_vec();
        if ignore_case {
            return Ok(Self::AnyCase(bytes.to_ascii_lowercase()));
        }
        Ok(if text.contains(['*', '?']) { Self::Glob(bytes) } else { Self::Text(bytes) })
    }

    pub(crate) fn fits_text(&self, text: &[u8]) -> bool {
        match self {
            Self::Text(wanted) => wanted == text,
            Self::Glob(pattern) => vigie_tree::matches(pattern, text),
            Self::AnyCase(pattern) => vigie_tree::matches(pattern, &text.to_ascii_lowercase()),
            Self::Option(..) | Self::Number(..) | Self::Network(..) => false,
        }
    }

    /// Whether an option is meant, and its value where one is wanted.
    pub(crate) fn fits_option(&self, name: &[u8], value: Option<&[u8]>) -> bool {
        let Self::Option(wanted, wanted_value) = self else { return false };
        super::arguments::is_option(wanted, name)
            && wanted_value.as_ref().is_none_or(|wanted| value.is_some_and(|value| wanted.fits_text(value)))
    }

    pub(crate) fn fits_number(&self, number: i64) -> bool {
        matches!(self, Self::Number(from, to) if (*from..=*to).contains(&number))
    }

    pub(crate) fn fits_address(&self, address: IpAddr) -> bool {
        matches!(self, Self::Network(network, bits) if contains(*network, *bits, address))
    }
}

fn number(text: &str) -> Option<Pattern> {
    let of = |text: &str| text.trim().parse::<i64>().ok();
    Some(if let Some(rest) = text.strip_prefix("<=") {
        Pattern::Number(i64::MIN, of(rest)?)
    } else if let Some(rest) = text.strip_prefix('<') {
        Pattern::Number(i64::MIN, of(rest)?.checked_sub(1)?)
    } else if let Some(rest) = text.strip_prefix(">=") {
        Pattern::Number(of(rest)?, i64::MAX)
    } else if let Some(rest) = text.strip_prefix('>') {
        Pattern::Number(of(rest)?.checked_add(1)?, i64::MAX)
    } else if let Some((from, to)) = text.split_once("..") {
        Pattern::Number(of(from)?, of(to)?)
    } else {
        Pattern::Number(of(text)?, of(text)?)
    })
}

fn network(text: &str) -> Option<Pattern> {
    let (address, bits) = parse_network(text)?;
    Some(Pattern::Network(address, bits))
}

/// An address, or one with the number of bits that count.
pub(crate) fn parse_network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => bits.parse().ok().filter(|bits| *bits <= most)?,
        None => most,
    };
    // Addresses of sockets that take both kinds are recorded as those of the older one.
    Some(match address {
        IpAddr::V6(six) if bits >= 96 && six.to_ipv4_mapped().is_some() => {
            (address.to_canonical(), bits - 96)
        }
        _ => (address, bits),
    })
}

/// Whether a network has an address; of the other family it has none.
pub(crate) fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            bits == 0 || (network.to_bits() ^ address.to_bits()) >> (32 - u32::from(bits)) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            bits == 0 || (network.to_bits() ^ address.to_bits()) >> (128 - u32::from(bits)) == 0
        }
        _ => false,
    }
}
