//! Files that must survive: secrets, and atomic replacement.

pub mod secret_file;
