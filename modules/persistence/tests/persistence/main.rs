//! A host in a directory: what is planted is found with file, line and verdict, and what installation made is
//! explained.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod catalogue;
mod host;
mod hostile;
mod includes;
mod places;
mod plants;
mod privacy;
