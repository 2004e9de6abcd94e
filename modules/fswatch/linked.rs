//! Files that got another name, and what was done to them under it.

use std::collections::HashMap;

use crate::events::Happened;

/// Files of users that are kept, and as many of root's: users cannot keep those out, nor one user another's. Of more a
/// scan tells, which comes soon.
const MOST: usize = 4_096;

/// A file by its device and inode.
pub type FileId = (u64, u64);

/// The files.
#[derive(Debug, Clone, Default)]
pub struct LinkedFiles {
    /// Of each its owner, and what happened.
    files: HashMap<FileId, (u32, Happened)>,
    /// Those of each owner.
    of: HashMap<u32, Vec<FileId>>,
    /// There were more.
    is_left_out: bool,
}

impl LinkedFiles {
    /// Adds what happened to a file of this owner. Where there is no room, a file of the user who has most gives way.
    pub fn add(&mut self, file: FileId, owner: u32, happened: Happened) {
        if let Some((_, known)) = self.files.get_mut(&file) {
            known.merge(happened);
            return;
        }
        let number = |owner| self.of.get(&owner).map_or(0, Vec::len);
        let (roots, its) = (number(0), number(owner));
        let of_kind = if owner == 0 { roots } else { self.files.len() - roots };
        if of_kind >= MOST {
            self.is_left_out = true;
            let users = self.of.iter().filter(|(user, files)| **user != 0 && files.len() > its + 1);
            let largest = users.max_by_key(|(_, files)| files.len()).map(|(user, _)| *user);
            let Some(user) = largest.filter(|_| owner != 0) else { return };
            if let Some(last) = self.of.get_mut(&user).and_then(Vec::pop) {
                self.files.remove(&last);
            }
        }
        self.of.entry(owner).or_default().push(file);
        self.files.insert(file, (owner, happened));
    }

    /// Adds others.
    pub fn merge(&mut self, others: Self) {
        for (file, (owner, happened)) in others.files {
            self.add(file, owner, happened);
        }
        self.is_left_out |= others.is_left_out;
    }

    /// What happened to a file, if it is one of them.
    #[must_use]
    pub fn get(&self, file: FileId) -> Option<&Happened> {
        self.files.get(&file).map(|(_, happened)| happened)
    }

    /// Whether there were more since that was asked last.
    pub(crate) fn take_left_out(&mut self) -> bool {
        std::mem::take(&mut self.is_left_out)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_files_are_bounded_and_no_user_keeps_out_those_of_root_or_of_another() {
        let mut files = LinkedFiles::default();
        for inode in 0..3 * MOST as u64 {
            files.add((1, inode), 1000, Happened::finished());
        }
        let mut others = LinkedFiles::default();
        others.add((2, 7), 0, Happened::finished());
        others.add((2, 8), 1001, Happened::finished());
        others.add((1, 0), 1000, Happened { written: true, ..Happened::default() });

        assert!(files.take_left_out() && !files.take_left_out());
        files.merge(others);

        assert_eq!(files.files.len(), MOST + 1);
        assert_eq!(files.get((2, 7)), Some(&Happened::finished()));
        assert_eq!(files.get((2, 8)), Some(&Happened::finished()));
        assert!(files.get((1, 0)).is_some_and(|happened| happened.written && happened.finished));
        assert!(files.take_left_out(), "one of the first user's gave way");
    }
}
