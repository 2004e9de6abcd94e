//! The module against time servers on loopback: our own, that do what they are told to, and chronyd.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod captured;
mod chronyd;
mod court;
mod oracle;
mod replies;
mod server;
mod survey;
