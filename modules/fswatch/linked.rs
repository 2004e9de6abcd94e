//! Files that got another name, and what was done to them under it.

use std::collections::HashMap;

use crate::events::Happened;

/// Files of users that are kept, and as many of root's: users cannot keep those out. Of more, a scan tells.
const MOST: usize = 4_096;

/// A file by its device and inode.
pub type FileId = (u64, u64);

/// The files.
#[derive(Debug, Clone, Default)]
pub struct LinkedFiles {
    /// Of each whether it is root's, and what happened.
    files: HashMap<FileId, (bool, Happened)>,
    /// How many of them are users'.
    of_users: usize,
}

impl LinkedFiles {
    /// Adds what happened to a file, that is root's or a user's.
    pub fn add(&mut self, file: FileId, is_roots: bool, happened: Happened) {
        if let Some((_, known)) = self.files.get_mut(&file) {
            known.merge(happened);
            return;
        }
        let its = if is_roots { self.files.len() - self.of_users } else { self.of_users };
        if its < MOST {
            self.of_users += usize::from(!is_roots);
            self.files.insert(file, (is_roots, happened));
        }
    }

    /// Adds others.
    pub fn merge(&mut self, others: Self) {
        for (file, (is_roots, happened)) in others.files {
            self.add(file, is_roots, happened);
        }
    }

    /// What happened to a file, if it is one of them.
    #[must_use]
    pub fn get(&self, file: FileId) -> Option<&Happened> {
        self.files.get(&file).map(|(_, happened)| happened)
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
    fn users_files_are_bounded_and_keep_none_of_roots_out() {
        let mut files = LinkedFiles::default();
        for inode in 0..3 * MOST as u64 {
            files.add((1, inode), false, Happened::finished());
        }
        let mut others = LinkedFiles::default();
        others.add((2, 7), true, Happened::finished());
        others.add((1, 0), false, Happened { written: true, ..Happened::default() });

        files.merge(others);

        assert_eq!(files.files.len(), MOST + 1);
        assert_eq!(files.get((2, 7)), Some(&Happened::finished()));
        assert!(files.get((1, 0)).is_some_and(|happened| happened.written && happened.finished));
    }
}
