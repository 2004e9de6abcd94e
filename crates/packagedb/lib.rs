//! What the package managers of a host wrote down: which packages are installed, whose a file is, and how it was.
//!
//! Modules that watch or search files share this reading. Nothing here runs a package manager: their databases are
//! read as they lie on the disk, with limits, because whoever may change a program may change them too.

pub mod installed;
pub mod owners;
mod rpm_header;
pub mod sqlite;
mod text;
pub mod version;
