//! What runs or is loaded now, and what only a walk over all files finds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use vigie_host::mounts::Mount;
use vigie_host::shown;
use vigie_tree::Entry;

use crate::allowance::cost_of;
use crate::catalogue::{rule, rules, technique};
use crate::explain::MAX_TEXT;
use crate::format::Format;
use crate::record::{Record, Verdict};
use crate::scan::Scan;

/// Most directories that a walk enters.
const MAX_DIRECTORIES: usize = 5_000_000;

impl Scan<'_> {
    fn live_record(&self, name: &'static str, file: &str, verdict: Verdict, note: String) -> Record {
        let technique = technique(name);
        Record {
            kind: technique.kind,
            technique: technique.id,
            attack: technique.attack,
            when: technique.when.to_owned(),
            file: file.to_owned(),
            verdict: Some(verdict),
            notes: vec![note],
            ..Record::default()
        }
    }

    /// Modules, mounts, handlers of the kernel, pinned BPF and processes without a start point.
    pub(crate) fn live(&mut self) {
        let names = ["lkm-live", "overmount", "core-pattern", "bpf", "live-orphan", "binfmt"];
        if !names.iter().any(|name| self.wants(name)) {
            return;
        }
        if !self.parameters.is_this_host() {
            self.skip("the live state of the host", "another root than that of this host is examined");
            return;
        }
        if self.wants("lkm-live") {
            self.modules();
        }
        if self.wants("overmount") {
            self.mounts();
        }
        if self.wants("core-pattern") || self.wants("binfmt") {
            self.helpers();
        }
        if self.wants("bpf") {
            self.pinned();
        }
        if self.wants("live-orphan") {
            self.processes();
        }
    }

    fn modules(&mut self) {
        let listed = std::fs::read_to_string("/proc/modules").unwrap_or_default();
        let mut names = BTreeMap::new();
        for line in listed.lines() {
            let mut fields = line.split_whitespace();
            if let Some(name) = fields.next() {
                names.insert(
                    name.to_owned(),
                    fields.next_back().filter(|taints| taints.starts_with('(')).map(str::to_owned),
                );
            }
        }
        self.examined += names.len() as u64;
        let loaded: BTreeSet<String> = std::fs::read_dir("/sys/module")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().join("initstate").exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        for name in loaded.iter().filter(|name| !names.contains_key(*name)) {
            let record = self.live_record(
                "lkm-live",
                "/proc/modules",
                Verdict::Local,
                format!("{name} is loaded but not listed"),
            );
            self.push(record);
        }
        for (name, taints) in &names {
            if !loaded.contains(name) {
                let record = self.live_record(
                    "lkm-live",
                    "/proc/modules",
                    Verdict::Local,
                    format!("{name} is listed but not loaded"),
                );
                self.push(record);
            } else if let Some(taints) = taints {
                let record = self.live_record(
                    "lkm-live",
                    "/proc/modules",
                    Verdict::Local,
                    format!("{name} taints the kernel {taints}"),
                );
                self.push(record);
            }
        }
    }

    fn mounts(&mut self) {
        // Containers have these over files of their image.
        const USUAL: [&str; 4] =
            ["/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/proc/sys/fs/binfmt_misc"];
        for (table, whose) in
            [("/proc/self/mountinfo", "of this process"), ("/proc/1/mountinfo", "of the first process")]
        {
            let content = match std::fs::read(table) {
                Ok(content) => content,
                Err(error) => {
                    self.skip(table, error.to_string());
                    continue;
                }
            };
            for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u32..) {
                let Some(mount) = Mount::parse(line) else { continue };
                self.examined += 1;
                let point = shown(mount.point.as_os_str().as_bytes());
                let is_process = point
                    .strip_prefix("/proc/")
                    .is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()));
                let covers =
                    ["/usr/", "/etc/", "/bin/", "/sbin/", "/lib/"].iter().any(|top| point.starts_with(top));
                if (covers || is_process) && !USUAL.contains(&point.as_str()) {
                    let note = format!("mounted over {point} in the mounts {whose}");
                    let mut record = self.live_record("overmount", table, Verdict::Local, note);
                    record.line = Some(number);
                    record.command = point;
                    self.push(record);
                }
            }
        }
        self.skip("mounts of other namespaces", "only those of this and of the first process are read");
    }

    fn helpers(&mut self) {
        for name in ["kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "kernel/poweroff_cmd"] {
            let path = format!("/proc/sys/{name}");
            let Ok(value) = std::fs::read_to_string(&path) else { continue };
            self.examined += 1;
            let command = value.trim().trim_start_matches('|');
            if command.is_empty() || (name == "kernel/core_pattern" && !value.starts_with('|')) {
                continue;
            }
            let program = self.program(command);
            let explained = program.as_ref().is_some_and(|program| {
                program.package.is_some() || program.missing && name != "kernel/core_pattern"
            });
            let verdict = if explained { Verdict::Packaged } else { Verdict::Local };
            let mut record =
                self.live_record("core-pattern", &path, verdict, "the kernel starts this".to_owned());
            record.line = Some(1);
            record.command = command.to_owned();
            record.program = program;
            self.push(record);
        }
        for entry in std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten() {
            let Ok(content) = std::fs::read_to_string(entry.path()) else { continue };
            let Some(interpreter) = content.lines().find_map(|line| line.strip_prefix("interpreter ")) else {
                continue;
            };
            self.examined += 1;
            let program = self.program(interpreter);
            let verdict = match &program {
                Some(program) if program.package.is_some() => Verdict::Packaged,
                _ => Verdict::Local,
            };
            let mut record = self.live_record(
                "binfmt",
                &shown(entry.path().as_os_str().as_bytes()),
                verdict,
                "a live handler".to_owned(),
            );
            record.command = interpreter.to_owned();
            record.program = program;
            self.push(record);
        }
    }

    fn pinned(&mut self) {
        let mut directories = vec![std::path::PathBuf::from("/sys/fs/bpf")];
        let mut left = 10_000;
        while let Some(directory) = directories.pop() {
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) => {
                    if error.kind() != std::io::ErrorKind::NotFound {
                        self.skip(directory.to_string_lossy(), error.to_string());
                    }
                    continue;
                }
            };
            for entry in entries.flatten().take(left) {
                left -= 1;
                self.examined += 1;
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                    Ok(_) => {
                        let path = shown(entry.path().as_os_str().as_bytes());
                        let record = self.live_record(
                            "bpf",
                            &path,
                            Verdict::Unknown,
                            "pinned, so it outlives the process that loaded it".to_owned(),
                        );
                        self.push(record);
                    }
                    Err(_) => {}
                }
            }
        }
        self.skip("BPF programs that are loaded and not pinned", "they are not listed");
    }

    /// Processes whose program is gone, was never a file, or lies where anybody may write.
    fn processes(&mut self) {
        let mut hidden = 0_u64;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            self.examined += 1;
            let link = entry.path().join("exe");
            let target = match std::fs::read_link(&link) {
                Ok(target) => target,
                Err(error) => {
                    hidden += u64::from(error.kind() == std::io::ErrorKind::PermissionDenied);
                    continue;
                }
            };
            // Nobody is asked: the file system of a program, or of another host, may never answer.
            let wanted = StatxFlags::NLINK | StatxFlags::UID;
            let program = match statx(CWD, &link, AtFlags::STATX_DONT_SYNC, wanted) {
                Ok(program) => program,
                Err(error) => {
                    hidden += u64::from(error == Errno::ACCESS);
                    continue;
                }
            };
            let path = shown(target.as_os_str().as_bytes());
            let is_memory = path.starts_with("/memfd:");
            let lies_open = ["/tmp/", "/var/tmp/", "/dev/shm/"].iter().any(|top| path.starts_with(top));
            let is_gone = program.stx_nlink == 0;
            let is_orphan = parent_of(pid) == Some(1);
            if (is_gone || lies_open) && is_orphan {
                let how = match (is_memory, is_gone) {
                    (true, _) => "its program never was a file",
                    (false, true) => "its program was removed or replaced",
                    (false, false) => "its program is below a world-writable directory",
                };
                let mut record =
                    self.live_record("live-orphan", &path, Verdict::Local, format!("process {pid}: {how}"));
                record.uid = Some(program.stx_uid);
                record.payer = program.stx_uid;
                record.owner = self.name_of(program.stx_uid).cloned();
                self.push(record);
            }
        }
        if hidden > 0 {
            self.skip("programs of other users' processes", vigie_host::tracing_hint());
        }
    }

    /// Walks over all files for what can lie anywhere.
    pub(crate) fn walk(&mut self) {
        let wanted = ["suid", "filecaps", "git", "binary-changed"];
        if !wanted.iter().any(|name| self.wants(name)) {
            return;
        }
        if !self.parameters.deep {
            self.skip(
                "setuid files, capabilities and git hooks outside the usual locations, and the content of packaged programs that appear unchanged",
                "this needs a scan of all files: use deep",
            );
            return;
        }
        let overrides: HashSet<Vec<u8>> = HashSet::new();
        let mut directories: Vec<Vec<u8>> = vec![b"/".to_vec()];
        let mut entered = 0_usize;
        while let Some(directory) = directories.pop() {
            if self.is_over() {
                return;
            }
            entered += 1;
            if entered > MAX_DIRECTORIES {
                self.skip("the rest of the files", "there are too many directories");
                return;
            }
            let entries = match self.tree.list(&directory) {
                Ok(entries) => entries,
                Err(vigie_tree::Unread::Gone) => continue,
                Err(why) => {
                    self.skip(shown(&directory), why.to_string());
                    continue;
                }
            };
            for entry in entries {
                if entry.status.is_directory() {
                    if !is_kernels(&entry.path) {
                        directories.push(entry.path);
                    }
                } else if entry.status.is_file() {
                    // One directory can hold more than there is time for.
                    if self.is_over() {
                        return;
                    }
                    self.walked(&entry, &overrides);
                }
            }
        }
    }

    fn walked(&mut self, entry: &Entry, overrides: &HashSet<Vec<u8>>) {
        self.examined += 1;
        let parent = &entry.path[..entry.path.len() - entry.name().len()];
        let is_program_place = matches!(
            parent,
            b"/usr/local/sbin/" | b"/usr/local/bin/" | b"/usr/sbin/" | b"/usr/bin/" | b"/sbin/" | b"/bin/"
        );
        if !is_program_place {
            self.privileges(entry, overrides);
            let is_code = entry.status.mode & 0o111 != 0;
            if is_code
                && self.wants("binary-changed")
                && let Some(recorded) = self.explainer.recorded(&entry.path)
                && recorded.is_regular()
            {
                let opened = self.open(entry.clone(), "binary-changed");
                if !opened.explained.origin.is_explained() {
                    self.whole("binary-changed", &opened, None);
                }
            }
        }
        if self.wants("git") {
            self.git(entry, parent);
        }
    }

    /// Hooks and the configuration of a repository: in `.git`, in one of its submodules, or bare.
    fn git(&mut self, entry: &Entry, parent: &[u8]) {
        let is_config = matches!(entry.name(), b"config" | b"config.worktree");
        let repository = if is_config { Some(parent) } else { parent.strip_suffix(b"hooks/") };
        let Some(repository) = repository else { return };
        let has = |name: &[u8]| self.tree.look(&vigie_tree::joined(repository, name)).is_ok();
        let is_repository = repository.ends_with(b"/.git/") || (has(b"HEAD") && has(b"objects"));
        if !is_repository || entry.name().ends_with(b".sample") {
            return;
        }
        if !is_config {
            self.matched(&rule("git", &[], Format::Program), entry.clone());
            return;
        }
        if !self.spend(self.writer(entry), cost_of(entry), &shown(&entry.path)) {
            return;
        }
        let content = match entry.read(MAX_TEXT) {
            Ok(content) => content,
            Err(why) => return self.skip(shown(&entry.path), why.to_string()),
        };
        // Every repository has such a file: only one that starts something is worth an entry.
        if crate::format::items(Format::Git, &content).is_empty() {
            return;
        }
        if let Some(rule) = rules().find(|rule| rule.format == Format::Git) {
            self.read(rule, entry.clone());
        }
    }

    /// Start files that are protected from being removed.
    pub(crate) fn attributes(&mut self) {
        if !self.wants("immutable") {
            return;
        }
        let mut told = HashSet::new();
        let protected: Vec<Record> = self
            .protected
            .iter()
            .filter(|record| told.insert(record.file.clone()))
            .map(|record| {
                let technique = technique("immutable");
                Record {
                    kind: technique.kind,
                    technique: technique.id,
                    attack: technique.attack,
                    when: technique.when.to_owned(),
                    verdict: Some(Verdict::Local),
                    notes: vec!["immutable or append-only (chattr)".to_owned()],
                    ..record.clone()
                }
            })
            .collect();
        for record in protected {
            self.push(record);
        }
    }
}

/// Directories of the kernel's, and of what is gone at the next boot.
fn is_kernels(path: &[u8]) -> bool {
    matches!(path, b"/proc" | b"/sys" | b"/dev" | b"/run")
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(&stat[end + 1..]).into_owned();
    rest.split_whitespace().nth(1)?.parse().ok()
}
