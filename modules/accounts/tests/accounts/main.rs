//! Accounts of made-up hosts, and the answers of sudo's and OpenSSH's own tools beside ours.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod host;
mod keygen;
mod sudo;
