//! What no pattern finds: programs, libraries, databases of the package manager, boot images.

use std::collections::{HashMap, HashSet};

use vigie_host::shown;
use vigie_tree::{Entry, Unread};

use crate::elf_cache;
use crate::explain::{Explained, MAX_TEXT};
use crate::record::{Origin, Record, Verdict};
use crate::scan::{Opened, Scan};

/// Directories of programs, in the order of a usual PATH.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What a file's times may be later than the list of its package. Unpacking and listing take so long, in seconds.
const UNPACKING: i64 = 3600;

/// Programs that Debian, Fedora or Alpine ship setuid or setgid.
const SETUID: [&str; 66] = [
    "su",
    "sudo",
    "sudoedit",
    "mount",
    "umount",
    "passwd",
    "chsh",
    "chfn",
    "gpasswd",
    "newgrp",
    "pkexec",
    "chage",
    "expiry",
    "crontab",
    "ssh-agent",
    "ssh-keysign",
    "wall",
    "write",
    "write.ul",
    "bsd-write",
    "dbus-daemon-launch-helper",
    "unix_chkpwd",
    "pam_timestamp_check",
    "polkit-agent-helper-1",
    "fusermount",
    "fusermount3",
    "ntfs-3g",
    "mount.nfs",
    "mount.cifs",
    "umount.nfs",
    "ping",
    "ping6",
    "at",
    "exim4",
    "Xorg.wrap",
    "newuidmap",
    "newgidmap",
    "sg",
    "locate",
    "mlocate",
    "plocate",
    "dotlockfile",
    "mail-touchlock",
    "mail-unlock",
    "mail-lock",
    "utempter",
    "sendmail",
    "postdrop",
    "postqueue",
    "pppd",
    "chrome-sandbox",
    "snap-confine",
    "bbsuid",
    "doas",
    "screen",
    "usernetctl",
    "lxc-user-nic",
    "VBoxHeadless",
    "staprun",
    "grub2-set-bootflag",
    "unix2_chkpwd",
    "vmware-user-suid-wrapper",
    "traceroute6.iputils",
    "arping",
    "mtr",
    "procmail",
];

/// Programs that are shipped with capabilities.
const CAPABLE: [&str; 14] = [
    "ping",
    "mtr-packet",
    "arping",
    "clockdiff",
    "gst-ptp-helper",
    "gnome-keyring-daemon",
    "dumpcap",
    "newuidmap",
    "newgidmap",
    "traceroute6",
    "systemd-detect-virt",
    "kwin_wayland",
    "sway",
    "rcp",
];

impl Scan<'_> {
    /// A file that lies where nothing of its kind is expected, or was changed.
    fn stranger(&mut self, technique: &'static str, entry: Entry, note: &str) {
        let mut opened = self.open(entry, technique);
        if opened.explained.origin.is_explained() {
            return;
        }
        opened.explained.note = opened.explained.note.or(None);
        let mut record = self.described(technique, &opened);
        record.verdict = Some(opened.explained.origin.verdict(None, false));
        if !note.is_empty() {
            record.notes.push(note.to_owned());
        }
        let text = opened.content.as_ref().filter(|content| !content.contains(&0));
        record.line = text.map(|content| crate::format::first_line(content));
        self.push(record);
    }

    /// Whether a packaged file was written after its package was unpacked. Times can be set back, but not that of the
    /// last change, unless the clock is.
    fn is_newer_than_package(
        &mut self,
        entry: &Entry,
        package: &str,
        lists: &mut HashMap<String, Option<(i64, i64)>>,
    ) -> bool {
        let tree = self.tree;
        let list = *lists.entry(package.to_owned()).or_insert_with(|| {
            let list = tree.find(format!("/var/lib/dpkg/info/{package}.list").as_bytes()).ok()?;
            Some((list.status.modified, list.status.changed))
        });
        let Some((modified, changed)) = list else { return true };
        entry.status.modified > modified || entry.status.changed > changed.saturating_add(UNPACKING)
    }

    /// Programs that stand before others in PATH, that were changed, or that nobody owns; setuid and capabilities.
    pub(crate) fn programs(&mut self) {
        if !["path-shadow", "binary-changed", "suid", "filecaps"].iter().any(|name| self.wants(name)) {
            return;
        }
        let mut directories: Vec<(Vec<u8>, Vec<Entry>)> = Vec::new();
        for path in PROGRAMS {
            match self.tree.list(path.as_bytes()) {
                Ok(entries) => {
                    let Ok(real) = self.tree.find(path.as_bytes()) else { continue };
                    if !directories.iter().any(|(known, _)| *known == real.path) {
                        directories.push((real.path, entries));
                    }
                }
                Err(Unread::Gone) => {}
                Err(why) => self.skip(path, why.to_string()),
            }
        }
        let is_local = |path: &[u8]| path.starts_with(b"/usr/local/");
        let system: HashSet<Vec<u8>> = directories
            .iter()
            .filter(|(path, _)| !is_local(path))
            .flat_map(|(_, entries)| entries.iter().map(|entry| entry.name().to_vec()))
            .collect();
        let mut lists = HashMap::new();
        let overrides = self.stat_overrides();
        for (path, entries) in directories {
            for entry in entries {
                if self.is_over() {
                    return;
                }
                self.examined += 1;
                self.privileges(&entry, &overrides);
                if is_local(&path) {
                    if system.contains(entry.name()) && !entry.status.is_directory() {
                        self.stranger("path-shadow", entry, "precedes a program of the same name in PATH");
                    }
                    continue;
                }
                self.system_program(entry, &mut lists);
            }
        }
        for pattern in ["~/bin/*", "~/.local/bin/*", "~/sbin/*"] {
            for entry in self.find(pattern) {
                if system.contains(entry.name()) && !entry.status.is_directory() {
                    self.stranger("path-shadow", entry, "precedes a program of the same name in PATH");
                }
            }
        }
    }

    fn system_program(&mut self, entry: Entry, lists: &mut HashMap<String, Option<(i64, i64)>>) {
        if !self.wants("binary-changed") {
            return;
        }
        if entry.status.is_link() {
            self.stranger("binary-changed", entry, "no package contains this link");
        } else if entry.status.is_file() {
            match self.explainer.recorded(&entry.path) {
                Some(recorded) => {
                    if self.parameters.deep || self.is_newer_than_package(&entry, &recorded.package, lists) {
                        self.stranger("binary-changed", entry, "it differs from its package");
                    }
                }
                None => self.stranger("binary-changed", entry, "no package owns this program"),
            }
        }
    }

    /// Modes that the administrator, or a package's script, has told dpkg to keep.
    fn stat_overrides(&mut self) -> HashSet<Vec<u8>> {
        let content = self.explainer.read("/var/lib/dpkg/statoverride").unwrap_or_default();
        content
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.splitn(4, |byte| *byte == b' ').nth(3).map(<[u8]>::to_vec))
            .collect()
    }

    /// Setuid, setgid and capabilities of a file.
    pub(crate) fn privileges(&mut self, entry: &Entry, overrides: &HashSet<Vec<u8>>) {
        if !entry.status.is_file() || entry.status.mode & 0o111 == 0 {
            return;
        }
        if entry.status.mode & 0o6000 != 0 && self.wants("suid") {
            let kind = if entry.status.mode & 0o4000 != 0 { "setuid" } else { "setgid" };
            let is_known =
                SETUID.iter().any(|name| name.as_bytes() == entry.name()) || overrides.contains(&entry.path);
            self.privileged("suid", entry, is_known, kind.to_owned());
        }
        if self.wants("filecaps")
            && let Some(value) = entry.attribute("security.capability")
        {
            let is_known = CAPABLE.iter().any(|name| name.as_bytes() == entry.name());
            self.privileged("filecaps", entry, is_known, capabilities(&value));
        }
    }

    fn privileged(&mut self, technique: &'static str, entry: &Entry, is_known: bool, note: String) {
        let mut opened = self.open(entry.clone(), technique);
        if opened.explained.origin == Origin::Packaged && !is_known {
            opened.explained.origin = Origin::Modified(crate::record::Changed::Anywhere);
            opened.explained.note = Some("no package is known to install it with this privilege");
        }
        let mut record = self.described(technique, &opened);
        record.verdict = Some(opened.explained.origin.verdict(None, false));
        record.notes.push(note);
        self.push(record);
    }

    /// Libraries that nobody owns where the loader looks for them.
    pub(crate) fn libraries(&mut self) {
        if !self.wants("ldso-lib") && !self.wants("ldso-conf") {
            return;
        }
        let mut lists = HashMap::new();
        let mut done = HashSet::new();
        for directory in self.find("/{,usr/,usr/local/}lib{,32,64,x32}{,/*-linux-*}") {
            let Ok(real) = self.tree.find(&directory.path) else { continue };
            if real.status.is_directory() && done.insert(real.path.clone()) {
                self.library_directory(&real.path, &mut lists);
                for more in self.tree.glob_below(&real.path, "/{glibc-hwcaps/*,tls,haswell}", &mut Vec::new())
                {
                    if more.status.is_directory() && done.insert(more.path.clone()) {
                        self.library_directory(&more.path, &mut lists);
                    }
                }
            }
        }
        self.loader_cache(&done);
    }

    fn library_directory(&mut self, path: &[u8], lists: &mut HashMap<String, Option<(i64, i64)>>) {
        let Ok(entries) = self.tree.list(path) else { return };
        for entry in entries {
            if self.is_over() {
                return;
            }
            let name = entry.name();
            let is_library = name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.");
            if !is_library || entry.status.is_directory() {
                continue;
            }
            self.examined += 1;
            if entry.status.is_file()
                && let Some(recorded) = self.explainer.recorded(&entry.path)
                && !self.parameters.deep
                && !self.is_newer_than_package(&entry, &recorded.package, lists)
            {
                continue;
            }
            self.stranger("ldso-lib", entry, "the loader finds it here");
        }
    }

    /// Libraries that the loader's cache knows outside of the directories that it is made from.
    fn loader_cache(&mut self, directories: &HashSet<Vec<u8>>) {
        let Ok(entry) = self.tree.find(b"/etc/ld.so.cache") else { return };
        let Ok(content) = entry.read(16 << 20) else {
            self.skip("/etc/ld.so.cache", "it cannot be read");
            return;
        };
        self.examined += 1;
        let mut configured: HashSet<Vec<u8>> = directories.clone();
        for content in self.configuration("ldso-conf") {
            for line in content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
                if line.starts_with(b"/") {
                    configured
                        .insert(self.tree.find(line).map_or_else(|_| line.to_vec(), |entry| entry.path));
                }
            }
        }
        let Some(libraries) = elf_cache::paths(&content) else {
            self.skip("/etc/ld.so.cache", "its format is unknown");
            return;
        };
        let mut told = HashSet::new();
        for library in libraries {
            let Some(slash) = library.iter().rposition(|byte| *byte == b'/') else { continue };
            let directory = &library[..slash];
            let real = self.tree.find(directory).map_or_else(|_| directory.to_vec(), |entry| entry.path);
            // ldconfig itself goes into these below each directory.
            let is_known = configured
                .iter()
                .any(|known| real == *known || real.starts_with(&[known, &b"/"[..]].concat()));
            if !is_known && told.insert(real) {
                let record = Record {
                    verdict: Some(Verdict::Local),
                    command: shown(&library),
                    notes: vec!["the loader's cache contains a directory that is not configured".to_owned()],
                    ..self.of_entry("ldso-conf", &entry)
                };
                self.push(record);
            }
        }
    }

    /// dpkg's own files: scripts of maintainers, diversions, overrides, alternatives.
    pub(crate) fn databases(&mut self) {
        if self.wants("dpkg-script") {
            self.maintainer_scripts();
        }
        if self.wants("diversion") {
            self.diversions();
        }
    }

    /// dpkg keeps no digest of its scripts, but writes the list of a package after them.
    fn maintainer_scripts(&mut self) {
        let scripts = self.find("/var/lib/dpkg/info/*.{preinst,postinst,prerm,postrm,config,triggers}");
        for entry in scripts {
            self.examined += 1;
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            let Some((base, _)) = path.rsplit_once('.') else { continue };
            let list = self.tree.find(format!("{base}.list").as_bytes());
            let (origin, note) = match &list {
                Ok(list) => {
                    let later = entry.status.modified > list.status.modified
                        || entry.status.changed > list.status.changed.saturating_add(24 * UNPACKING);
                    if !later && entry.status.is_file() {
                        continue;
                    }
                    (
                        Origin::Modified(crate::record::Changed::Anywhere),
                        "it was changed after its package was unpacked",
                    )
                }
                Err(_) => (Origin::Local, "it belongs to no installed package"),
            };
            let mut opened = self.open(entry, "dpkg-script");
            opened.explained =
                Explained { origin, package: base.rsplit('/').next().map(str::to_owned), note: Some(note) };
            self.whole("dpkg-script", &opened, None);
        }
    }

    fn diversions(&mut self) {
        if let Ok(entry) = self.tree.find(b"/var/lib/dpkg/diversions")
            && let Ok(content) = entry.read(MAX_TEXT)
        {
            self.examined += 1;
            let lines: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
            for (number, diversion) in lines.as_chunks::<3>().0.iter().enumerate() {
                let [from, to, by] = diversion;
                if *by == b":" {
                    let record = Record {
                        line: u32::try_from(number * 3 + 1).ok(),
                        verdict: Some(Verdict::Local),
                        command: format!("{} to {}", shown(from), shown(to)),
                        notes: vec!["a local diversion".to_owned()],
                        ..self.of_entry("diversion", &entry)
                    };
                    self.push(record);
                }
            }
        }
        if let Ok(entry) = self.tree.find(b"/var/lib/dpkg/statoverride")
            && let Ok(content) = entry.read(MAX_TEXT)
        {
            for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u32..) {
                let fields: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
                let [_, _, mode, path] = *fields.as_slice() else { continue };
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let sets_id =
                    std::str::from_utf8(mode).ok().and_then(|mode| u32::from_str_radix(mode, 8).ok());
                let sets_id = sets_id.is_none_or(|mode| mode & 0o6000 != 0);
                let is_known = SETUID.iter().any(|known| known.as_bytes() == name);
                let is_packaged = self.explainer.owner(path).is_some();
                let explained = is_packaged && (!sets_id || is_known);
                let record = Record {
                    line: Some(number),
                    verdict: Some(if explained { Verdict::Derived } else { Verdict::Local }),
                    command: shown(line),
                    ..self.of_entry("diversion", &entry)
                };
                self.push(record);
            }
        }
        for entry in self.find("/etc/alternatives/*") {
            self.examined += 1;
            if entry.status.is_link() {
                self.stranger("diversion", entry, "update-alternatives knows no such choice");
            }
        }
    }

    /// Images that the kernel or the firmware starts.
    pub(crate) fn boot(&mut self) {
        if self.wants("initramfs-image") {
            for entry in self.find("/boot/{initrd.img-*,initramfs-*,initrd-*,initrd.img,initramfs.img}") {
                if entry.status.is_file() {
                    self.initramfs(entry);
                }
            }
        }
        if self.wants("efi") {
            self.efi();
        }
    }

    fn initramfs(&mut self, entry: Entry) {
        let name = String::from_utf8_lossy(entry.name()).into_owned();
        let version = name
            .trim_start_matches("initrd.img-")
            .trim_start_matches("initramfs-")
            .trim_start_matches("initrd-")
            .trim_end_matches(".img")
            .to_owned();
        let kernel = format!("/boot/vmlinuz-{version}");
        let is_of_a_package = self.explainer.owner(kernel.as_bytes()).is_some();
        let mut opened = self.open(entry, "initramfs-image");
        if is_of_a_package && opened.explained.origin == Origin::Local {
            opened.explained.origin = Origin::Derived("update-initramfs");
            self.skip(
                shown(&opened.entry.path),
                "the files in this image are not compared with those of the root",
            );
        }
        let names = opened.content.as_deref().map(cpio_names).unwrap_or_default();
        let mut record = self.described("initramfs-image", &opened);
        record.verdict = Some(opened.explained.origin.verdict(None, false));
        if !names.is_empty() {
            record.notes.push(format!("contains, uncompressed: {}", names.join(" ")));
        }
        self.push(record);
    }

    /// Programs of the firmware are copies of packaged ones.
    fn efi(&mut self) {
        let copies = self.find("/{boot/efi,efi,boot}/EFI/**/*.efi");
        if copies.is_empty() {
            return;
        }
        let mut known = HashSet::new();
        for original in self.find("/usr/{lib/shim/*,lib/grub/*/*.efi*,lib/grub/*/monolithic/*,lib/systemd/boot/efi/*,libexec/fwupd/efi/*,lib/fwupd/efi/*}") {
            if original.status.is_file()
                && self.explainer.recorded(&original.path).is_some()
                && let Some(digests) = self.digests(&original)
            {
                known.insert(digests.sha256);
            }
        }
        for entry in copies {
            let mut opened: Opened = self.open(entry, "efi");
            if opened.explained.origin == Origin::Local
                && opened.digests.is_some_and(|digests| known.contains(&digests.sha256))
            {
                opened.explained.origin = Origin::Derived("a packaged boot loader");
            }
            let mut record = self.described("efi", &opened);
            record.verdict = Some(opened.explained.origin.verdict(None, false));
            self.push(record);
        }
    }
}

/// The names of the first files of an archive in the format newc, when it is not compressed.
fn cpio_names(content: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0_usize;
    while names.len() < 20 {
        let Some(header) = content.get(at..at + 110) else { break };
        if !header.starts_with(b"07070") {
            break;
        }
        let field = |number: usize| {
            let digits = &header[6 + number * 8..14 + number * 8];
            usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (Some(size), Some(length)) = (field(6), field(11)) else { break };
        let Some(name) = at.checked_add(110).and_then(|start| content.get(start..start.checked_add(length)?))
        else {
            break;
        };
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        if name == b"TRAILER!!!" {
            break;
        }
        names.push(shown(name));
        let padded = |end: usize| end.checked_add(3).map(|end| end & !3);
        let next = at
            .checked_add(110)
            .and_then(|end| end.checked_add(length))
            .and_then(padded)
            .and_then(|start| start.checked_add(size))
            .and_then(padded);
        let Some(next) = next else { break };
        at = next;
    }
    names
}

/// Names of the capabilities in `security.capability`.
fn capabilities(value: &[u8]) -> String {
    const NAMES: [&str; 41] = [
        "chown",
        "dac_override",
        "dac_read_search",
        "fowner",
        "fsetid",
        "kill",
        "setgid",
        "setuid",
        "setpcap",
        "linux_immutable",
        "net_bind_service",
        "net_broadcast",
        "net_admin",
        "net_raw",
        "ipc_lock",
        "ipc_owner",
        "sys_module",
        "sys_rawio",
        "sys_chroot",
        "sys_ptrace",
        "sys_pacct",
        "sys_admin",
        "sys_boot",
        "sys_nice",
        "sys_resource",
        "sys_time",
        "sys_tty_config",
        "mknod",
        "lease",
        "audit_write",
        "audit_control",
        "setfcap",
        "mac_override",
        "mac_admin",
        "syslog",
        "wake_alarm",
        "block_suspend",
        "audit_read",
        "perfmon",
        "bpf",
        "checkpoint_restore",
    ];
    let word = |at: usize| {
        value.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let permitted = u64::from(word(4)) | u64::from(word(12)) << 32;
    let inheritable = u64::from(word(8)) | u64::from(word(16)) << 32;
    let names: Vec<String> = (0..64_usize)
        .filter(|bit| (permitted | inheritable) >> bit & 1 == 1)
        .map(|bit| NAMES.get(bit).map_or_else(|| format!("cap_{bit}"), |name| format!("cap_{name}")))
        .collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names() {
        let mut value = vec![1, 0, 0, 2];
        value.extend_from_slice(&(1_u32 << 7).to_le_bytes());
        value.extend_from_slice(&[0; 12]);

        assert_eq!(capabilities(&value), "cap_setuid");
        assert_eq!(capabilities(&[]), "");
    }

    #[test]
    fn names_in_an_archive_are_read_and_garbage_is_not() {
        let mut archive = b"070701".to_vec();
        for field in 0..13 {
            archive.extend_from_slice(format!("{:08x}", if field == 11 { 3 } else { 0 }).as_bytes());
        }
        archive.extend_from_slice(b"ab\0\0\0\0");
        assert_eq!(cpio_names(&archive), ["ab"]);
        assert_eq!(cpio_names(b"070701ffffffffffffffff"), Vec::<String>::new());
        assert_eq!(cpio_names(&[b"070701".as_slice(), &[b'f'; 104]].concat()), Vec::<String>::new());
    }
}
