//! apk: one file with a paragraph for each package, see apk-v2(5).

use vigie_tree::{Place, Root};

use super::{Algorithm, Digest, FileRecord, Package, Unread, Visitor, Want, unread};
use crate::owners::{Manager, apk};
use crate::text::{Damage, End, Line, is_text, lines};

/// Where the database can be: the second on newer hosts, where `/lib` need not be a link to it.
const PATHS: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// What is read of a paragraph.
const NEEDED: &[u8] = b"PVAoIfFRMaZ";

/// Most files of a package that are read.
const MAX_FILES: usize = 1_000_000;

fn path(root: &Root) -> Option<Place> {
    PATHS.iter().map(|path| root.place(path)).find(Place::is_file)
}

pub(super) fn is_there(root: &Root) -> bool {
    path(root).is_some()
}

/// A paragraph while it is read.
#[derive(Default)]
struct Paragraph {
    /// The line that it begins with, from 1; 0 before it begins.
    line: u64,
    package: Package,
    files: Vec<FileRecord>,
    directory: Vec<u8>,
    /// The digests are the beginnings of SHA-256, which apk 2 writes for packages of apk 3.
    cut_digests: bool,
}

pub(super) fn visit(root: &Root, visitor: &mut dyn Visitor) -> Vec<Unread> {
    let Some(path) = path(root) else { return Vec::new() };
    let mut paragraph = Paragraph::default();
    let mut damage = Damage::default();
    let result = path.open().and_then(|file| {
        lines(file, |Line { number, text, end, .. }| {
            if text.is_empty() {
                std::mem::take(&mut paragraph).hand_over(visitor, &mut damage);
                return;
            }
            if paragraph.line == 0 {
                paragraph.line = number;
            }
            match text {
                _ if !is_text(text) => damage.note(number, "is no text"),
                _ if end == End::File => damage.note(number, "is cut: the file ends in it"),
                // Descriptions and dependencies are as long as they like.
                [key, b':', ..] if end == End::TooLong => {
                    if NEEDED.contains(key) {
                        damage.note(number, "is too long");
                    }
                }
                [key, b':', value @ ..] if key.is_ascii_alphabetic() => {
                    if *key == b'P' && !paragraph.package.name.is_empty() {
                        // The line between two paragraphs is gone.
                        damage.note(number, "is a field that was there before");
                    }
                    paragraph.add(*key, value);
                }
                _ => damage.note(number, "is no field"),
            }
        })
    });
    paragraph.hand_over(visitor, &mut damage);
    let failed = result.err().map(|error| unread(&path, format_args!("cannot be read: {error}")));
    let damaged = (!damage.is_none()).then(|| unread(&path, &damage));
    failed.into_iter().chain(damaged).collect()
}

impl Paragraph {
    fn hand_over(mut self, visitor: &mut dyn Visitor, damage: &mut Damage) {
        if self.line == 0 {
            return;
        }
        if self.package.name.is_empty() {
            return damage.note(self.line, "begins a paragraph without the name of a package");
        }
        if self.package.version.is_empty() {
            damage.note(self.line, "begins a package without a version");
        }
        if self.package.state.is_empty() {
            "installed".clone_into(&mut self.package.state);
        }
        if self.cut_digests {
            self.files.iter_mut().for_each(|file| file.digest = None);
        }
        match visitor.want(Manager::Apk, &self.package) {
            Want::Nothing => {}
            Want::Package => visitor.take(Manager::Apk, self.package, Vec::new()),
            Want::Files => visitor.take(Manager::Apk, self.package, self.files),
        }
    }

    fn add(&mut self, key: u8, value: &[u8]) {
        let text = || String::from_utf8_lossy(value).into_owned();
        match key {
            b'P' => self.package.name = text(),
            b'V' => self.package.version = text(),
            b'A' => self.package.architecture = text(),
            b'o' => self.package.source = Some(text()),
            b'I' => self.package.size = text().parse().ok(),
            b'f' => {
                self.cut_digests = value.contains(&b'S');
                if value.contains(&b'f') {
                    "half-installed".clone_into(&mut self.package.state);
                }
            }
            b'F' => {
                value.clone_into(&mut self.directory);
                // The package's own entry of the root directory names none.
                if !value.is_empty() {
                    self.file(FileRecord {
                        path: [b"/", value].concat(),
                        mode: Some(0o755),
                        directory: true,
                        ..FileRecord::default()
                    });
                }
            }
            b'R' => {
                let path = apk::joined(&self.directory, value);
                // What apk protects unless it is told otherwise, see apk-protected_paths(5).
                let configuration = path.starts_with(b"/etc/") && !path.starts_with(b"/etc/init.d/");
                self.file(FileRecord {
                    path,
                    mode: Some(0o644),
                    configuration,
                    lacks_digest: true,
                    ..FileRecord::default()
                });
            }
            b'M' | b'a' => {
                let Some(file) = self.files.last_mut().filter(|file| file.directory == (key == b'M')) else {
                    return;
                };
                // user:group:mode, and more.
                let text = text();
                let mut fields = text.split(':');
                let (user, group, mode) = (fields.next(), fields.next(), fields.next());
                file.user = user.map(str::to_owned);
                file.group = group.map(str::to_owned);
                file.mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok()).or(file.mode);
            }
            b'Z' => {
                if let Some(file) = self.files.last_mut().filter(|file| !file.directory) {
                    file.lacks_digest = false;
                    file.digest = digest(value);
                }
            }
            _ => {}
        }
    }

    fn file(&mut self, file: FileRecord) {
        if self.files.len() < MAX_FILES {
            self.files.push(FileRecord { user: Some("0".to_owned()), group: Some("0".to_owned()), ..file });
        }
    }
}

/// `Q1` is SHA-1 and `Q2` SHA-256, both in base64.
fn digest(text: &[u8]) -> Option<Digest> {
    let (algorithm, text) = match text {
        [b'Q', b'1', text @ ..] => (Algorithm::Sha1, text),
        [b'Q', b'2', text @ ..] => (Algorithm::Sha256, text),
        _ => return None,
    };
    let bytes = apk::base64(text, algorithm.length())?;
    Some(Digest { algorithm, bytes: bytes.into() })
}
