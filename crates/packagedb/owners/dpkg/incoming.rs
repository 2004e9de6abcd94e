//! The package that dpkg is unpacking: its manifest lies in `tmp.ci` before the first of its files is changed, and is
//! moved to `info` after the last.

use std::io;

use vigie_tree::Place;

use super::super::{Aliases, Digests, Index, MAX_PATHS, Manager, Recorded, Stamp, each_line};
use super::{Stanza, each_stanza, md5sum};

/// The manifest, as it was read.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    seen: Option<Stamp>,
    package: Stanza,
    digests: Option<Digests<16>>,
}

impl Incoming {
    /// Reads the manifest when it is another one than before; there is none when nothing is being unpacked.
    fn refresh(&mut self, directory: &Place, index: &Index, aliases: &Aliases) {
        let path = directory.join("md5sums");
        let seen = Stamp::of(&path);
        if seen == self.seen {
            return;
        }
        *self = Self { seen, ..Self::default() };
        if seen.is_some() {
            // What cannot be read explains nothing.
            self.read(directory, index, aliases).ok();
        }
    }

    fn read(&mut self, directory: &Place, index: &Index, aliases: &Aliases) -> io::Result<()> {
        let mut first = None;
        each_stanza(directory.join("control").open()?, |stanza| {
            if first.is_none() {
                first = Some(stanza.clone());
            }
        })?;
        self.package = first.filter(|stanza| !stanza.package.is_empty()).ok_or(io::ErrorKind::InvalidData)?;
        let mut all = Vec::new();
        each_line(directory.join("md5sums").open()?, |_, line| {
            if let Some((md5, path)) = md5sum(line)
                && all.len() < MAX_PATHS
            {
                let path = [b"/", &*path].concat();
                all.push((index.hash(&aliases.resolve(&path)), md5));
            }
        })?;
        self.digests = Some(Digests::new(0, self.seen, all));
        Ok(())
    }

    /// What the new version has under this path.
    pub(super) fn find(
        &mut self,
        directory: &Place,
        path: &[u8],
        index: &Index,
        aliases: &Aliases,
    ) -> Option<Recorded> {
        self.refresh(directory, index, aliases);
        let md5 = self.digests.as_ref()?.get(index.hash(path))?;
        Some(Recorded {
            manager: Manager::Dpkg,
            package: self.package.file_name(),
            version: self.package.version.clone(),
            md5: Some(md5),
            sha1: None,
            sha256: None,
            configuration: false,
        })
    }
}
